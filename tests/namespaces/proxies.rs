//! A typical pod of real programs: wrk in one namespace, HAProxy behind a translated service address in another, nginx in a
//! third.

use std::fs;
use std::path::PathBuf;
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use crate::common::{Arena, Network, Process, Tool, patience};
use crate::stage::{Bridge, SERVICE, tool};

/// Size of the one file that is served.
const BODY: usize = 20_000;
const READY: Duration = Duration::from_secs(30);
const STEP: Duration = Duration::from_millis(20);
/// Longer than any client takes.
const DEADLINE: Duration = Duration::from_secs(60);

struct Place {
    nginx: Process,
    _haproxy: Process,
    tool: Option<Tool>,
    bridge: Bridge,
    client: Network,
    proxy: Network,
    web: Network,
    arena: Arena,
    folder: Folder,
}

impl Place {
    fn new(accelerated: bool) -> Self {
        let arena = Arena::new();
        let folder = Folder::new();
        let bridge = Bridge::new();
        let [client, proxy, web] = [1, 2, 3].map(|number| bridge.host(number));
        bridge.translate(true);
        fs::write(folder.0.join("body"), body()).expect("failed to write the body");
        let tool = accelerated.then(|| tool(&arena, &[]));
        let nginx = start_nginx(&arena, &folder, &web);
        let haproxy = start_haproxy(&arena, &folder, &proxy);
        let mut place = Self {
            nginx,
            _haproxy: haproxy,
            tool,
            bridge,
            client,
            proxy,
            web,
            arena,
            folder,
        };
        place.wait_until_served();
        place
    }

    /// A client program in its namespace.
    fn client(&self, program: &str) -> Command {
        let mut command = self.arena.command_at(&self.client, self.arena.cgroup(), program);
        command.current_dir(&self.folder.0);
        command
    }

    fn wait_until_served(&mut self) {
        let deadline = Instant::now() + patience(READY);
        while !self.fetch(1) {
            assert!(
                Instant::now() < deadline,
                "nothing is served: {}",
                self.nginx.transcript()
            );
            thread::sleep(STEP);
        }
    }

    /// Fetches this many bodies over one connection; false if one did not arrive. Those that do must be right.
    fn fetch(&self, count: usize) -> bool {
        let mut command = self.client("curl");
        command.args(["--silent", "--fail", "--fail-early", "--max-time", "20"]);
        command.args([
            "--output",
            "body-#1",
            &format!("http://{SERVICE}/body?[1-{count}]"),
        ]);
        let mut process = Process::start(command);
        let is_fetched = process.wait(DEADLINE).success();
        for number in 1..=count {
            let path = self.folder.0.join(format!("body-{number}"));
            let fetched = fs::read(&path).unwrap_or_default();
            assert!(
                fetched == body() || !is_fetched,
                "body {number} is not what was served"
            );
            let _ = fs::remove_file(&path);
        }
        is_fetched
    }

    /// Requests the body as often as possible; prints the rate per second.
    fn load(&self, seconds: u64) -> Process {
        let mut command = self.client("wrk");
        command.args(["--threads", "1", "--connections", "20", "--timeout", "10s"]);
        command.args([
            "--duration",
            &format!("{seconds}s"),
            &format!("http://{SERVICE}/body"),
        ]);
        Process::start(command)
    }

    /// The bytes sent and received on the interfaces of the three hosts.
    fn carried(&self) -> u64 {
        let hosts = [&self.client, &self.proxy, &self.web];
        let bytes = hosts.map(|host| host.bytes("eth0"));
        bytes.iter().map(|(received, sent)| received + sent).sum()
    }
}

fn start_nginx(arena: &Arena, folder: &Folder, web: &Network) -> Process {
    let path = folder.0.display();
    let temporary = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
        .map(|name| format!("{name}_temp_path {path}/{name};"))
        .join("\n");
    let configuration = format!(
        "daemon off;
user root;
master_process off;
pid {path}/nginx.pid;
error_log stderr error;
events {{ worker_connections 1024; }}
http {{
    access_log off;
    keepalive_requests 10000000;
    {temporary}
    server {{ listen 10.0.0.3:8080; root {path}; }}
}}"
    );
    let file = folder.0.join("nginx.conf");
    fs::write(&file, configuration).expect("failed to write nginx.conf");
    let mut command = arena.command_at(web, arena.cgroup(), "nginx");
    command.args(["-e", "stderr", "-c"]).arg(file);
    Process::start(command)
}

fn start_haproxy(arena: &Arena, folder: &Folder, proxy: &Network) -> Process {
    let file = folder.0.join("haproxy.cfg");
    let configuration = "global
 nbthread 1
defaults
 mode http
 timeout connect 500ms
 timeout client 30s
 timeout server 5s
 retries 2
 option redispatch
listen service
 bind 10.0.0.2:8000
 http-reuse always
 server nginx 10.0.0.3:8080
";
    fs::write(&file, configuration).expect("failed to write haproxy.cfg");
    let mut command = arena.command_at(proxy, arena.cgroup(), "haproxy");
    command.args(["-db", "-f"]).arg(file);
    Process::start(command)
}

fn body() -> Vec<u8> {
    let mut state = 1_u64;
    (0..BODY)
        .map(|_| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            (state >> 56) as u8
        })
        .collect()
}

/// wrk's requests per second. All responses must be successful.
fn rate(mut wrk: Process) -> f64 {
    let status = wrk.wait(DEADLINE);
    let lines = wrk.stdout();
    let text = lines.join("\n");
    assert!(
        status.success() && !text.contains("Socket errors") && !text.contains("Non-2xx"),
        "{text}"
    );
    let line = lines.iter().find_map(|line| line.strip_prefix("Requests/sec:"));
    line.and_then(|line| line.trim().parse().ok())
        .unwrap_or_else(|| panic!("no rate: {text}"))
}

/// The bytes of wrk's bodies, each of which crosses two connections with two interfaces each.
fn payload(rate: f64, seconds: u64) -> u64 {
    (rate * seconds as f64) as u64 * BODY as u64 * 4
}

#[test]
fn a_proxy_and_a_server_behind_a_translated_service_bypass_their_interfaces() {
    const SECONDS: u64 = 4;
    let plain = Place::new(false);
    assert!(plain.fetch(200));
    let plain_rate = rate(plain.load(SECONDS));
    drop(plain);

    let mut place = Place::new(true);
    // The connections are admitted before they are measured.
    assert!(place.fetch(200));
    let before = place.carried();
    let accelerated_rate = rate(place.load(SECONDS));
    let carried = place.carried() - before;
    assert!(place.fetch(200));
    let report = place.tool.take().expect("the tool runs").end();
    println!(
        "figure: HAProxy and nginx in namespaces: {accelerated_rate:.0} requests/s, plain TCP {plain_rate:.0}, ratio {:.2}",
        accelerated_rate / plain_rate
    );
    let payload = payload(accelerated_rate, SECONDS);
    println!("figure: the interfaces carried {carried} of {payload} bytes");
    assert!(
        carried < payload / 50,
        "the interfaces carried {carried} of {payload} bytes: {}",
        report.transcript
    );
    report.assert_above("admitted_request_response", 20);
}

/// The server's namespace disappears with its processes and comes back with its address, repeatedly under load: clients see
/// the same as on TCP, which is correct answers or a proxy error, and afterwards everything works again.
#[test]
fn a_namespace_that_goes_and_comes_back_under_load_costs_no_byte() {
    let mut place = Place::new(true);
    for _ in 0..3 {
        let load = place.load(4);
        thread::sleep(Duration::from_millis(700));
        place.nginx.kill();
        // Its end of the veth pair goes with the namespace, and so does the router's.
        place.web = Network::new();
        let deadline = Instant::now() + patience(READY);
        while place.bridge.has_port(3) {
            assert!(Instant::now() < deadline, "the namespace does not go");
            thread::sleep(STEP);
        }
        assert!(!place.fetch(1), "there is no server");
        place.bridge.join(3, &place.web);
        place.proxy.run("ip neighbour flush all");
        place.nginx = start_nginx(&place.arena, &place.folder, &place.web);
        place.wait_until_served();
        assert!(place.fetch(100));
        drop(load);
    }
    let report = place.tool.take().expect("the tool runs").end();
    report.assert_above("messages_redirected", 1000);
    assert_eq!(report.counter("messages_dropped"), 0, "{}", report.transcript);
}

struct Folder(PathBuf);

impl Folder {
    fn new() -> Self {
        let folder = std::env::temp_dir().join(format!("sockredir-namespaces-{}", std::process::id()));
        let _ = fs::remove_dir_all(&folder);
        fs::create_dir(&folder).expect("failed to make a folder");
        Self(folder)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}
