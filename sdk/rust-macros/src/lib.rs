//! The derive macro of the SDK: `#[derive(Record)]` for structs with named fields. See
//! `streamrt_sdk::Record`.
//!
//! It writes what one would write by hand: a decoded column and a builder per field, and a typed
//! constant that names the column. Types are checked where the field stands, so that a wrong one is
//! reported there.

use proc_macro2::{Ident, TokenStream};
use quote::{format_ident, quote, quote_spanned};
use syn::spanned::Spanned;
use syn::{Data, DeriveInput, Error, Fields, Result, Type};

/// Implements `streamrt_sdk::Record`, and makes a typed column constant for each field:
/// `Click::ITEM` for a field `item`.
///
/// A field has the type `bool`, `i32`, `i64`, `u32`, `u64`, `f32`, `f64`, `String`, `Vec<u8>`, or
/// `Option` of one of these; its name is the column's.
#[proc_macro_derive(Record)]
pub fn derive_record(input: proc_macro::TokenStream) -> proc_macro::TokenStream {
    let input = syn::parse_macro_input!(input as DeriveInput);
    expand(&input)
        .unwrap_or_else(Error::into_compile_error)
        .into()
}

/// A field of the struct.
struct Field<'a> {
    ident: &'a Ident,
    kind: &'a Type,
    /// The column's name: the field's, without `r#`.
    name: String,
}

fn expand(input: &DeriveInput) -> Result<TokenStream> {
    if !input.generics.params.is_empty() {
        return Err(Error::new(
            input.generics.span(),
            "a record cannot be generic: its columns are fixed at planning",
        ));
    }
    let fields = fields(input)?;
    let (constants, schema, load) = (constants(input, &fields), schema(&fields), load(&fields));
    let (columns, builder) = (columns(&fields), builder(&fields));
    let ident = &input.ident;
    let (field_idents, kinds): (Vec<_>, Vec<_>) =
        fields.iter().map(|field| (field.ident, field.kind)).unzip();
    Ok(quote! {
        #constants
        const _: () = {
            use ::streamrt_sdk::support as __support;
            #columns
            #builder
            impl ::streamrt_sdk::Record for #ident {
                type Columns<'a> = __Columns<'a>;
                type Builder = __Builder;
                #schema
                fn empty() -> Self {
                    #ident { #(#field_idents: <#kinds as __support::Value>::empty()),* }
                }
                #load
            }
        };
    })
}

fn fields<'a>(input: &'a DeriveInput) -> Result<Vec<Field<'a>>> {
    let refuse = |what| {
        Err(Error::new(
            input.ident.span(),
            format!("{what} cannot be a record: a struct with named fields can"),
        ))
    };
    let named = match &input.data {
        Data::Struct(data) => match &data.fields {
            Fields::Named(named) => named,
            _ => return refuse("a struct without named fields"),
        },
        Data::Enum(_) => return refuse("an enum"),
        Data::Union(_) => return refuse("a union"),
    };
    if named.named.is_empty() {
        return refuse("a struct without fields");
    }
    let field = |field: &'a syn::Field| {
        let ident = field.ident.as_ref()?;
        Some(Field {
            ident,
            kind: &field.ty,
            name: ident.to_string().trim_start_matches("r#").to_owned(),
        })
    };
    Ok(named.named.iter().filter_map(field).collect())
}

/// `Click::ITEM` and so on.
fn constants(input: &DeriveInput, fields: &[Field<'_>]) -> TokenStream {
    let (ident, visibility) = (&input.ident, &input.vis);
    let constants = fields.iter().map(|Field { ident: field, kind, name }| {
        let constant = format_ident!("{}", name.to_uppercase(), span = field.span());
        let doc = format!("The column `{name}`.");
        quote! {
            #[doc = #doc]
            #visibility const #constant: ::streamrt_sdk::Column<#ident, #kind> = ::streamrt_sdk::Column::new(#name);
        }
    });
    quote! {
        #[allow(dead_code)]
        impl #ident { #(#constants)* }
    }
}

fn schema(fields: &[Field<'_>]) -> TokenStream {
    let entries = fields.iter().map(
        |Field { kind, name, .. }| quote_spanned!(kind.span()=> __support::field::<#kind>(#name)),
    );
    quote! {
        fn schema() -> __support::Schema {
            ::std::vec![#(#entries),*]
        }
    }
}

/// The decoded columns.
fn columns(fields: &[Field<'_>]) -> TokenStream {
    let members =
        fields.iter().map(|Field { ident, kind, .. }| quote_spanned!(kind.span()=> #ident: <#kind as __support::Value>::Column<'a>));
    quote! {
        #[doc(hidden)]
        pub struct __Columns<'a> { #(#members),* }
    }
}

/// The builders of the columns.
fn builder(fields: &[Field<'_>]) -> TokenStream {
    let members = fields.iter().map(|Field { ident, kind, .. }| quote_spanned!(kind.span()=> #ident: <#kind as __support::Value>::Builder));
    quote! {
        #[doc(hidden)]
        #[derive(Default)]
        pub struct __Builder { #(#members),* }
    }
}

/// Rows in and out.
fn load(fields: &[Field<'_>]) -> TokenStream {
    let (idents, kinds): (Vec<_>, Vec<_>) =
        fields.iter().map(|field| (field.ident, field.kind)).unzip();
    let numbers = 0..fields.len();
    quote! {
        fn columns<'a>(table: &__support::Table<'a>) -> ::streamrt_sdk::Result<__Columns<'a>> {
            ::std::result::Result::Ok(__Columns { #(#idents: __support::decode::<#kinds>(table, #numbers)?),* })
        }
        #[inline]
        fn load(record: &mut Self, columns: &__Columns<'_>, row: usize) {
            #(__support::Value::assign(&mut record.#idents, <#kinds as __support::Value>::get(&columns.#idents, row));)*
        }
        #[inline]
        fn push(record: &Self, builder: &mut __Builder) {
            #(<#kinds as __support::Value>::push(&mut builder.#idents, __support::Value::borrowed(&record.#idents));)*
        }
        fn finish(builder: &mut __Builder, out: &mut ::std::vec::Vec<__support::OwnedColumn>) {
            #(out.push(__support::ColumnBuilder::finish(&mut builder.#idents));)*
        }
    }
}
