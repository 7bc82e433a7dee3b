//! Plan schemas and Arrow schemas are the same thing in two notations; only this file translates
//! between them.

use crate::code;
use crate::error::{Error, Result};
use arrow_schema::{DataType as Arrow, Field, Schema, SchemaRef};
use std::sync::Arc;
use streamrt_wit::{DataType as Plan, OutputColumns};

/// The Arrow type of a plan type.
pub fn arrow_type(data_type: Plan) -> Arrow {
    match data_type {
        Plan::Bool => Arrow::Boolean,
        Plan::I32 => Arrow::Int32,
        Plan::I64 => Arrow::Int64,
        Plan::U32 => Arrow::UInt32,
        Plan::U64 => Arrow::UInt64,
        Plan::F32 => Arrow::Float32,
        Plan::F64 => Arrow::Float64,
        Plan::String => Arrow::Utf8,
        Plan::Binary => Arrow::Binary,
    }
}

/// The Arrow schema of a plan schema.
pub fn arrow_schema(schema: &streamrt_wit::Schema) -> SchemaRef {
    let field = |f: &streamrt_wit::Field| Field::new(&f.name, arrow_type(f.data_type), f.nullable);
    Arc::new(Schema::new(schema.iter().map(field).collect::<Vec<_>>()))
}

/// The schema of an output port, given that of the input.
///
/// # Errors
/// `Invalid` if an extending port gives a column a name that the input has.
pub fn port_schema(input: &SchemaRef, columns: &OutputColumns) -> Result<SchemaRef> {
    let added = match columns {
        OutputColumns::Forward => return Ok(input.clone()),
        OutputColumns::Replace { schema } => return Ok(arrow_schema(schema)),
        OutputColumns::Extend { schema } => arrow_schema(schema),
    };
    if let Some(clash) = added
        .fields()
        .iter()
        .find(|field| input.field_with_name(field.name()).is_ok())
    {
        return Err(Error::new(
            code::SCHEMA_MISMATCH,
            format!(
                "the added column `{}` is in the input already",
                clash.name()
            ),
        ));
    }
    Ok(Arc::new(Schema::new(
        input
            .fields()
            .iter()
            .chain(added.fields())
            .cloned()
            .collect::<Vec<_>>(),
    )))
}

/// The plan schema of an Arrow schema.
///
/// # Errors
/// `Invalid` if a column has a type that edges do not carry.
pub fn plan_schema(schema: &Schema) -> Result<streamrt_wit::Schema> {
    schema.fields().iter().map(|f| plan_field(f)).collect()
}

fn plan_field(field: &Field) -> Result<streamrt_wit::Field> {
    let data_type = match field.data_type() {
        Arrow::Boolean => Plan::Bool,
        Arrow::Int32 => Plan::I32,
        Arrow::Int64 => Plan::I64,
        Arrow::UInt32 => Plan::U32,
        Arrow::UInt64 => Plan::U64,
        Arrow::Float32 => Plan::F32,
        Arrow::Float64 => Plan::F64,
        Arrow::Utf8 => Plan::String,
        Arrow::Binary => Plan::Binary,
        other => {
            return Err(Error::new(
                code::SCHEMA_MISMATCH,
                format!(
                    "column `{}` has type {other}, which no stream carries",
                    field.name()
                ),
            ));
        }
    };
    Ok(streamrt_wit::Field {
        name: field.name().clone(),
        data_type,
        nullable: field.is_nullable(),
    })
}
