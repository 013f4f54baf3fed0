//! Node.js: its HTTP server and a keep-alive client.

use crate::compare::compare;

#[test]
fn node_serves_a_client_that_keeps_connections_alive() {
    let totals = compare("Node.js", |stage| {
        let mut command = stage.script("node", "node_http.cjs");
        command.args(["serve", "3000"]);
        stage.serve(command, &["127.0.0.1:3000", "[::1]:3000"]);
        stage.accelerate();
        for host in ["127.0.0.1", "::1"] {
            let mut command = stage.script("node", "node_http.cjs");
            command.args(["ask", "3000", host]);
            stage.run_script(host, command);
        }
    });
    totals.assert_admitted();
}
