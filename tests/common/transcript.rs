//! Owns the output of the program `scenarios`: its lines by scenario, and where two transcripts differ.

use std::collections::BTreeMap;

/// The output of one scenario: its transcript, and which way the messages of its warm connections went.
#[derive(Clone, Default)]
pub struct Lines {
    pub log: Vec<String>,
    pub notes: Vec<String>,
}

pub type Transcript = BTreeMap<String, Lines>;

/// Parses standard output.
pub fn transcript_of(text: &str) -> Transcript {
    let mut transcript = Transcript::new();
    for line in text.lines() {
        let columns: Vec<&str> = line.splitn(3, '\t').collect();
        let &[name, kind, text] = columns.as_slice() else {
            panic!("not a line of a transcript: {line}");
        };
        let lines = transcript.entry(name.to_owned()).or_default();
        let list = if kind == "log" {
            &mut lines.log
        } else {
            &mut lines.notes
        };
        list.push(text.to_owned());
    }
    transcript
}

/// The first line that differs; wrong bytes come first, so that no other difference hides them.
pub fn first_difference(plain: Option<&Lines>, accelerated: Option<&Lines>) -> Option<[String; 2]> {
    let [plain, accelerated] =
        [plain, accelerated].map(|side| side.map_or(&[] as &[String], |lines| &lines.log));
    let line = |of: &[String], at: usize| of.get(at).map_or("the end", String::as_str).to_owned();
    let lines = plain.len().max(accelerated.len());
    let pairs = (0..lines).map(|at| [line(plain, at), line(accelerated, at)]);
    let mut pairs = pairs.filter(|[plain, accelerated]| plain != accelerated);
    let first = pairs.next()?;
    let wrong = |[_, accelerated]: &[String; 2]| accelerated.contains("wrong");
    Some(if wrong(&first) {
        first
    } else {
        pairs.find(wrong).unwrap_or(first)
    })
}
