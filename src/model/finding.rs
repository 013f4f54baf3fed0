//! A problem that a check found, with its remedy.

use std::fmt;

/// An obstacle, and what the user can do about it.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Finding {
    /// What is wrong; lower case, no full stop, since it follows the name of a check.
    pub what: String,
    /// What to do about it; it follows a colon.
    pub remedy: String,
}

impl Finding {
    /// Takes what is wrong and its remedy.
    pub fn new(what: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self {
            what: what.into(),
            remedy: remedy.into(),
        }
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{}: {}", self.what, self.remedy)
    }
}

impl std::error::Error for Finding {}
