//! Where in the files each thing was said.

use std::collections::BTreeMap;

use super::problem::Place;

/// The places of a whole configuration.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Positions {
    /// Of `mail.user`, `log.to`, `run_root` and the like, by the field's path.
    pub top: BTreeMap<String, Place>,
    /// Of each chain, by its name.
    pub chains: BTreeMap<String, ChainPlaces>,
}

/// The places of one chain.
#[derive(Debug, Clone, PartialEq)]
pub struct ChainPlaces {
    /// The chain's opening parenthesis.
    pub chain: Place,
    /// By the field: `nice`, `env.KEY`, `tasks.NAME.timeout`, `tasks.NAME.command`. A field that
    /// is not here has its built-in default.
    pub fields: BTreeMap<String, Place>,
}

impl ChainPlaces {
    pub(crate) fn new(chain: Place) -> ChainPlaces {
        ChainPlaces { chain, fields: BTreeMap::new() }
    }
}

impl Positions {
    /// Where a field outside the chains was said (`mail.user`), or else its section; `None`: it
    /// has its built-in default.
    pub fn top(&self, field: &str) -> Option<&Place> {
        let section = field.split('.').next().unwrap_or(field);
        self.top.get(field).or_else(|| self.top.get(section))
    }

    /// Where a field of a chain was said; the chain itself, for a default. `None`: no such chain.
    pub fn of(&self, chain: &str, field: &str) -> Option<&Place> {
        let places = self.chains.get(chain)?;
        Some(places.fields.get(field).unwrap_or(&places.chain))
    }
}
