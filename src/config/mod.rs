//! A file's text becomes a checked [`Config`](model::Config), or the list of all its problems.
//!
//! Nothing here opens a file: texts come in, a configuration or its problems go out, each problem
//! with its exact place. The way of a file:
//!
//! | step | where |
//! |---|---|
//! | bytes → text, other formats told | `source` |
//! | text → a tree of values with their places | `scan`, `brackets`, `tokens`, `space`, `tree` |
//! | values → typed values, what is wrong told | `reader`, `scalars`, `values`, `identity`, `units` |
//! | one layer of options (task, chain, defaults) | `layers` |
//! | the nearest layer decides | `chain`, `task` |
//! | `mail`, `log`, folders | `top`, `sections` |
//! | a main file and what it includes | `load` |
//! | problems and origins shown | `problem`, `render`, `positions`, `show` |
//!
//! `fields` is the table of all fields: what is not in it is refused.

mod brackets;
mod chain;
pub mod env_file;
mod fields;
mod identity;
mod layers;
mod load;
pub mod model;
mod positions;
mod problem;
mod reader;
mod render;
mod scalars;
mod scan;
mod sections;
mod show;
mod source;
mod space;
mod task;
mod tokens;
mod top;
mod tree;
mod units;
mod values;

pub use fields::{FIELDS, Field, Section};
pub use load::{
    Checked, Defaults, Loaded, MOST_CHAINS, MOST_FILES, Unreadable, Want, load, parse, refuses,
};
pub use positions::{ChainPlaces, Positions};
pub use problem::{Place, Problem, Severity, Span};
pub use render::{count, locate, render, render_each};
pub use scan::top_text;
pub use show::show;
pub use source::{File, MAX_FILE, Source};
pub use units::{RLIMITS, signal_name};
