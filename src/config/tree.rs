//! A configuration as it is written: values with the place of each.

use super::problem::Span;

/// A value and where it stands.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Node {
    pub(crate) span: Span,
    pub(crate) kind: Kind,
}

/// A value.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Kind {
    Bool(bool),
    Int(i128),
    Float,
    Text(String),
    /// A character or a byte string: no field takes one.
    Other(&'static str),
    List(Vec<Node>),
    Map(Vec<(Node, Node)>),
    /// `Word`, `Word(…)` or `(…)`.
    Named {
        name: Option<String>,
        body: Body,
    },
    None,
    /// Its fault has been told already.
    Broken,
}

/// What stands in the parentheses of a [`Kind::Named`].
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Body {
    /// No parentheses.
    Unit,
    /// Values without names.
    Tuple(Vec<Node>),
    /// Values with names.
    Struct(Vec<Entry>),
}

/// `name: value`.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Entry {
    pub(crate) name: String,
    pub(crate) name_span: Span,
    pub(crate) value: Node,
}

impl Node {
    /// The value's kind for a message.
    pub(crate) fn describe(&self) -> String {
        match &self.kind {
            Kind::Bool(value) => format!("`{value}`"),
            Kind::Int(_) => "a number".to_owned(),
            Kind::Float => "a number with a fraction".to_owned(),
            Kind::Text(_) => "text in quotes".to_owned(),
            Kind::Other(what) => (*what).to_owned(),
            Kind::List(_) => "a list `[…]`".to_owned(),
            Kind::Map(_) => "a map `{…}`".to_owned(),
            Kind::Named { name: Some(name), body: Body::Unit } => {
                format!("the word {}", super::problem::quoted(name))
            }
            Kind::Named { name: Some(name), .. } => {
                format!("`{name}(…)`")
            }
            Kind::Named { name: None, .. } => "`(…)`".to_owned(),
            Kind::None => "`None`".to_owned(),
            Kind::Broken => "something broken".to_owned(),
        }
    }
}
