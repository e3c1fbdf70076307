//! A file's text becomes a checked [`Config`](model::Config), or the list of all its problems.

pub mod model;
