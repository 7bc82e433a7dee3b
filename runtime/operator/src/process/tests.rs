//! The lines of SEMANTICS section 4 and 5 that apply to a keyed function.
