//! The datapath's counters as values: differences and formatting.

use std::fmt;

use super::reasons::REASONS;
use serde::de::{MapAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// The name of a counter that exists.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Counter(&'static str);

impl Counter {
    /// To be called in a constant, so that a name without a counter does not compile.
    ///
    /// # Panics
    ///
    /// If there is no counter of that name.
    pub const fn of(name: &'static str) -> Self {
        let mut index = 0;
        while index < REASONS.len() - 1 {
            if is_same(REASONS[index].name.as_bytes(), name.as_bytes()) {
                return Self(name);
            }
            index += 1;
        }
        panic!("there is no such counter");
    }

    /// As in `status`, the metrics and the documents.
    pub const fn name(self) -> &'static str {
        self.0
    }
}

const fn is_same(one: &[u8], other: &[u8]) -> bool {
    let mut index = 0;
    while index < one.len() && index < other.len() && one[index] == other[index] {
        index += 1;
    }
    index == one.len() && index == other.len()
}

/// A reading of all counters, in the order of `enum counter`.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Counters(Vec<(String, u64)>);

impl Counters {
    /// Pairs each name with its value.
    pub fn new(names: &[String], values: Vec<u64>) -> Self {
        Self(names.iter().cloned().zip(values).collect())
    }

    /// 0 where the instance that was asked has no such counter.
    pub fn value(&self, counter: Counter) -> u64 {
        self.named(counter.name())
    }

    /// The value of one whose name comes from such a reading; 0 if it is not in this one.
    pub fn named(&self, name: &str) -> u64 {
        let counter = self.0.iter().find(|(each, _)| each == name);
        counter.map_or(0, |(_, value)| *value)
    }

    /// All counters, including those at 0.
    pub fn all(&self) -> impl Iterator<Item = (&str, u64)> {
        self.0.iter().map(|(name, value)| (name.as_str(), *value))
    }

    /// Messages that went through TCP: all of `messages_*` except those redirected or refused.
    pub fn messages_over_tcp(&self) -> u64 {
        let over_tcp = |name: &str| {
            name.starts_with("messages_") && !["messages_redirected", "messages_dropped"].contains(&name)
        };
        let counters = self.0.iter().filter(|(name, _)| over_tcp(name));
        counters.map(|(_, value)| value).sum()
    }

    /// The counters that are not 0.
    pub fn counted(&self) -> impl Iterator<Item = (&str, u64)> {
        let counted = self.0.iter().filter(|(_, value)| *value > 0);
        counted.map(|(name, value)| (name.as_str(), *value))
    }

    /// The increase since an earlier reading.
    pub fn since(&self, earlier: &Self) -> Self {
        let pairs = self.0.iter().zip(&earlier.0);
        Self(
            pairs
                .map(|((name, now), (_, then))| (name.clone(), now.saturating_sub(*then)))
                .collect(),
        )
    }

    /// The counters that are not 0, on one line.
    pub fn in_a_line(&self) -> String {
        let pairs: Vec<_> = self
            .counted()
            .map(|(name, value)| format!("{name} {value}"))
            .collect();
        if pairs.is_empty() {
            return "nothing was counted".to_owned();
        }
        pairs.join(", ")
    }
}

/// One line per counter that is not 0: name and value.
impl fmt::Display for Counters {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let width = self.counted().map(|(name, _)| name.len()).max().unwrap_or(0);
        for (name, value) in self.counted() {
            writeln!(out, "{name:width$} {value}")?;
        }
        Ok(())
    }
}

/// An object with one member per counter, in order.
impl Serialize for Counters {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.0.iter().map(|(name, value)| (name, value)))
    }
}

impl<'de> Deserialize<'de> for Counters {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct InOrder;

        impl<'de> Visitor<'de> for InOrder {
            type Value = Counters;

            fn expecting(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
                out.write_str("an object of counters")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Counters, A::Error> {
                let mut counters = Vec::new();
                while let Some(counter) = map.next_entry()? {
                    counters.push(counter);
                }
                Ok(Counters(counters))
            }
        }

        deserializer.deserialize_map(InOrder)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counters(values: [u64; 3]) -> Counters {
        Counters::new(
            &["ends".to_owned(), "messages".to_owned(), "left".to_owned()],
            values.into(),
        )
    }

    #[test]
    fn only_what_was_counted_is_shown_in_two_columns() {
        assert_eq!(counters([2, 1000, 0]).to_string(), "ends     2\nmessages 1000\n");
        assert_eq!(counters([2, 1000, 0]).in_a_line(), "ends 2, messages 1000");
        assert_eq!(counters([0, 0, 0]).to_string(), "");
        assert_eq!(counters([0, 0, 0]).in_a_line(), "nothing was counted");
    }

    #[test]
    fn json_keeps_their_order() {
        let text = serde_json::to_string(&counters([2, 1000, 0])).unwrap();
        assert_eq!(text, r#"{"ends":2,"messages":1000,"left":0}"#);
        assert_eq!(
            serde_json::from_str::<Counters>(&text).unwrap(),
            counters([2, 1000, 0])
        );
    }

    #[test]
    fn differences_are_taken_one_by_one() {
        assert_eq!(
            counters([5, 10, 1]).since(&counters([2, 10, 0])),
            counters([3, 0, 1])
        );
    }
}
