//! memcached: values up to its limit, many at once, asked for by many connections.

use crate::compare::compare;

#[test]
fn memcached_keeps_values() {
    let totals = compare("memcached", |stage| {
        let mut command = stage.command("memcached");
        command.args([
            "-u",
            "nobody",
            "-p",
            "11211",
            "-l",
            "127.0.0.1,::1",
            "-m",
            "256",
            "-U",
            "0",
        ]);
        stage.serve(command, &["127.0.0.1:11211", "[::1]:11211"]);
        stage.accelerate();
        for host in ["127.0.0.1", "::1"] {
            let mut command = stage.script("python3", "memcached_client.py");
            command.args([host, "11211"]);
            stage.run_script(host, command);
        }
    });
    totals.assert_admitted();
}
