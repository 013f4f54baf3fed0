//! memcached: values up to its size limit, many at once, requested over many connections.

use crate::compare::compare;
use crate::servers::{self, HOSTS};

#[test]
fn memcached_keeps_values() {
    let totals = compare("memcached", |stage| {
        servers::memcached(stage);
        stage.accelerate();
        for host in HOSTS {
            let mut command = stage.script("python3", "memcached_client.py");
            command.args([host, "11211"]);
            stage.run_script(host, command);
        }
    });
    totals.assert_admitted();
}
