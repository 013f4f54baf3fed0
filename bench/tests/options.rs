//! Bad options are refused in a line, before anything is measured.

use std::process::{Command, Stdio};

#[test]
fn bad_options_are_refused_in_a_line() {
    for (arguments, parts) in [
        (&["--filter", "udp"][..], &["no row", "stream/1KiB"][..]),
        (&["--set", "speed=1"], &["no tunable `speed`", "observe_messages"]),
        (&["--set", "bulk_bytes"], &["NAME=VALUE", "bulk_bytes"]),
        (&["--set", "bulk_bytes=many"], &["a number"]),
        (&["--json", "--csv"], &["--csv", "--json"]),
        (&["--rounds", "0"], &["--rounds"]),
        (&["--external", ""], &["no program"]),
        (&["--external", "x", "--admit", "any"], &["--admit"]),
        (&["--nonsense"], &["--nonsense"]),
    ] {
        let mut command = Command::new(env!("CARGO_BIN_EXE_sockredir-bench"));
        let output = command.args(arguments).stdin(Stdio::null()).output().unwrap();
        let line = String::from_utf8(output.stderr).unwrap();
        assert!(output.stdout.is_empty());
        assert_eq!(output.status.code(), Some(2), "{line}");
        assert_eq!(line.lines().count(), 1, "not one line: {line}");
        assert!(line.starts_with("sockredir-bench: "), "{line}");
        for part in parts {
            assert!(line.contains(part), "{part} is not in: {line}");
        }
    }
}
