//! What a check finds wrong, with its remedy.

use std::fmt;

/// Something that stands in the way, and what the user can do about it.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Finding {
    /// What is wrong; lower case, no full stop, as it follows the name of a check.
    pub what: String,
    /// What to do about it, as it follows a colon.
    pub remedy: String,
}

impl Finding {
    /// What is wrong and its remedy.
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
