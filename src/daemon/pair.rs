//! Pairs sockets into connections: finds both ends, which of them has connected, and the reason that counts.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::net::SocketAddr;

use crate::model::document::{Direction, End, Flow, FlowState, Listener, Process};
use crate::model::reasons::NOT_FOLLOWED;
use crate::model::socket::Socket;

/// A port in a network namespace.
type Port = (u64, u16);

/// All connections and listeners among these sockets, which are listed once per process that holds them. Connections are
/// sorted by the client's address.
pub fn pair(sockets: Vec<Socket>) -> (Vec<Flow>, Vec<Listener>) {
    let (listening, connected): (Vec<_>, Vec<_>) = merge(sockets)
        .into_iter()
        .partition(|(socket, _)| socket.is_listening);
    let ports: HashSet<Port> = listening
        .iter()
        .map(|(socket, _)| (socket.netns, socket.local.port()))
        .collect();
    let listeners = listening.into_iter().map(listener).collect();
    let mut flows: Vec<Flow> = couple(connected)
        .into_iter()
        .map(|couple| flow(couple, &ports))
        .collect();
    flows.sort_by_key(|flow| (flow.client.address, flow.client.port, flow.server.port));
    (flows, listeners)
}

/// A socket and the processes that hold it.
type OpenSocket = (Socket, Vec<Process>);

/// Each socket once, with all its processes.
fn merge(sockets: Vec<Socket>) -> Vec<OpenSocket> {
    let mut by_inode: BTreeMap<u64, OpenSocket> = BTreeMap::new();
    for socket in sockets {
        let process = socket.process.clone();
        let (_, processes) = by_inode
            .entry(socket.inode)
            .or_insert_with(|| (socket, Vec::new()));
        processes.push(process);
    }
    let mut open: Vec<OpenSocket> = by_inode.into_values().collect();
    for (_, processes) in &mut open {
        processes.sort_unstable();
        processes.dedup();
    }
    open
}

/// Pairs the ends that were seen: by flow, or by mirrored addresses in one network namespace.
fn couple(sockets: Vec<OpenSocket>) -> Vec<(OpenSocket, Option<OpenSocket>)> {
    let mut couples: Vec<(OpenSocket, Option<OpenSocket>)> = Vec::new();
    let mut by_flow: HashMap<(u32, u32), usize> = HashMap::new();
    let mut by_address: HashMap<(u64, SocketAddr, SocketAddr), usize> = HashMap::new();
    for open in sockets {
        let socket = &open.0;
        let flow = socket.followed.map(|followed| followed.flow);
        let mirrored = (socket.netns, socket.remote, socket.local);
        let place = flow
            .and_then(|flow| by_flow.get(&flow))
            .or_else(|| by_address.get(&mirrored))
            .copied()
            .filter(|place| couples[*place].1.is_none());
        if let Some(place) = place {
            couples[place].1 = Some(open);
            continue;
        }
        by_flow.extend(flow.map(|flow| (flow, couples.len())));
        by_address.insert((socket.netns, socket.local, socket.remote), couples.len());
        couples.push((open, None));
    }
    couples
}

fn flow(couple: (OpenSocket, Option<OpenSocket>), ports: &HashSet<Port>) -> Flow {
    let ((client, server), (from, to)) = match couple {
        (one, Some(other)) if has_accepted(&one.0, &other.0, ports) => ends(Some(other), Some(one)),
        (one, Some(other)) => ends(Some(one), Some(other)),
        (one, None) if is_server(&one.0, ports) => ends(None, Some(one)),
        (one, None) => ends(Some(one), None),
    };
    let (state, reason) = judge(client.as_ref(), server.as_ref());
    let age = [&client, &server]
        .into_iter()
        .flatten()
        .find_map(|(socket, _)| socket.followed)
        .map(|followed| followed.age.as_secs_f64());
    Flow {
        state,
        reason,
        to_server: direction(client.as_ref(), server.as_ref()),
        to_client: direction(server.as_ref(), client.as_ref()),
        client: end(client, from),
        server: end(server, to),
        age_seconds: age,
    }
}

type Ends = ((Option<OpenSocket>, Option<OpenSocket>), (SocketAddr, SocketAddr));

/// Adds the addresses; those of an end that was not seen are known from its peer.
fn ends(client: Option<OpenSocket>, server: Option<OpenSocket>) -> Ends {
    let unknown = SocketAddr::from(([0, 0, 0, 0], 0));
    let own = |open: &Option<OpenSocket>| open.as_ref().map(|(socket, _)| socket.local);
    let peer = |open: &Option<OpenSocket>| open.as_ref().map(|(socket, _)| socket.remote);
    let from = own(&client).or(peer(&server)).unwrap_or(unknown);
    let to = own(&server).or(peer(&client)).unwrap_or(unknown);
    ((client, server), (from, to))
}

/// True if the first of the two ends is the server.
fn has_accepted(one: &Socket, other: &Socket, ports: &HashSet<Port>) -> bool {
    match (one.followed, other.followed) {
        (Some(followed), _) => followed.accepted,
        (None, Some(followed)) => !followed.accepted,
        (None, None) => is_server(one, ports),
    }
}

/// True if only its own port has a listener; in doubt, the lower port is the server's.
fn is_server(socket: &Socket, ports: &HashSet<Port>) -> bool {
    if let Some(followed) = socket.followed {
        return followed.accepted;
    }
    let listens = |address: SocketAddr| ports.contains(&(socket.netns, address.port()));
    match (listens(socket.local), listens(socket.remote)) {
        (true, false) => true,
        (false, true) => false,
        _ => socket.local.port() < socket.remote.port(),
    }
}

/// State and reason of the flow. A recorded decision outranks what the gate would say now, and the connecting end outranks
/// its peer, which follows it; but a refusal at the accepting end has a reason of its own.
fn judge(client: Option<&OpenSocket>, server: Option<&OpenSocket>) -> (FlowState, String) {
    let reason = |socket: &Socket| socket.reason.clone().unwrap_or_default();
    if let Some(server) = followed(server).filter(|server| reason(server).starts_with("refused_")) {
        return (FlowState::TcpOnly, reason(server));
    }
    if let Some(socket) = followed(client).or(followed(server)) {
        return (socket.state, reason(socket));
    }
    let client = client.map(|(socket, _)| reason(socket));
    let server = server.map(|(socket, _)| match reason(socket).as_str() {
        "refused_blocking" => "refused_blocking_server".to_owned(),
        NOT_FOLLOWED if client.is_none() => "refused_unpaired".to_owned(),
        other => other.to_owned(),
    });
    // These stand in for a reason of the end's own.
    let is_own = |reason: &String| reason != NOT_FOLLOWED && reason != "adopt_unpaired";
    let told = client.clone().filter(is_own);
    let told = told.or(server.clone().filter(is_own));
    (FlowState::TcpOnly, told.or(client).or(server).unwrap_or_default())
}

fn followed(open: Option<&OpenSocket>) -> Option<&Socket> {
    open.map(|(socket, _)| socket)
        .filter(|socket| socket.followed.is_some())
}

fn direction(sender: Option<&OpenSocket>, receiver: Option<&OpenSocket>) -> Direction {
    Direction {
        queue_bytes: receiver.map_or(0, |(socket, _)| socket.queue_bytes),
        ..sender.map(|(socket, _)| socket.sends.clone()).unwrap_or_default()
    }
}

fn end(open: Option<OpenSocket>, address: SocketAddr) -> End {
    let (socket, processes) = open.unzip();
    End {
        address: address.ip(),
        port: address.port(),
        netns: socket.as_ref().map(|socket| socket.netns),
        processes: processes.unwrap_or_default(),
        blocking: socket.map(|socket| socket.is_blocking),
    }
}

fn listener((socket, processes): OpenSocket) -> Listener {
    Listener {
        address: socket.local.ip(),
        port: socket.local.port(),
        netns: socket.netns,
        processes,
        blocking: socket.is_blocking,
        refused: socket.reason,
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::model::document::Amount;
    use crate::model::socket::Followed;

    fn socket(inode: u64, local: &str, remote: &str) -> Socket {
        Socket {
            local: local.parse().unwrap(),
            remote: remote.parse().unwrap(),
            netns: 1,
            inode,
            process: Process {
                pid: inode as u32,
                uid: 0,
                name: format!("program{inode}"),
            },
            is_listening: false,
            is_blocking: false,
            state: FlowState::TcpOnly,
            reason: Some("not_followed".to_owned()),
            followed: None,
            queue_bytes: 0,
            sends: Direction::default(),
        }
    }

    fn with(mut socket: Socket, change: impl FnOnce(&mut Socket)) -> Socket {
        change(&mut socket);
        socket
    }

    fn refused(socket: Socket, reason: &str) -> Socket {
        with(socket, |socket| socket.reason = Some(reason.to_owned()))
    }

    fn followed(socket: Socket, accepted: bool, state: FlowState, reason: &str) -> Socket {
        with(refused(socket, reason), |socket| {
            socket.state = state;
            socket.followed = Some(Followed {
                flow: (7, 9),
                accepted,
                age: Duration::from_secs(3),
            });
        })
    }

    fn only_flow(sockets: Vec<Socket>) -> Flow {
        let (mut flows, _) = pair(sockets);
        assert_eq!(flows.len(), 1, "{flows:?}");
        flows.remove(0)
    }

    const CLIENT: &str = "127.0.0.1:40000";
    const SERVER: &str = "127.0.0.1:80";

    #[test]
    fn the_ends_of_a_flow_are_one_row_with_what_each_sends() {
        let client = with(
            followed(
                socket(1, CLIENT, SERVER),
                false,
                FlowState::Admitted,
                "admitted_bulk",
            ),
            |client| {
                client.sends.redirected = Amount {
                    bytes: 10,
                    messages: 1,
                };
                client.queue_bytes = 5;
            },
        );
        let server = with(
            followed(
                socket(2, SERVER, CLIENT),
                true,
                FlowState::Admitted,
                "admitted_bulk",
            ),
            |server| server.sends.tcp_bytes_ever = 20,
        );
        for sockets in [vec![client.clone(), server.clone()], vec![server, client]] {
            let flow = only_flow(sockets);
            assert_eq!(
                (flow.state, flow.reason.as_str()),
                (FlowState::Admitted, "admitted_bulk")
            );
            assert_eq!((flow.client.port, flow.server.port), (40000, 80));
            assert_eq!(flow.to_server.redirected.bytes, 10);
            assert_eq!(
                (flow.to_client.tcp_bytes_ever, flow.to_client.queue_bytes),
                (20, 5)
            );
            assert_eq!(flow.age_seconds, Some(3.0));
        }
    }

    #[test]
    fn processes_that_share_a_socket_are_all_named() {
        let another = with(socket(1, CLIENT, SERVER), |socket| socket.process.pid = 77);
        let flow = only_flow(vec![
            another,
            socket(1, CLIENT, SERVER),
            socket(1, CLIENT, SERVER),
        ]);
        let pids: Vec<_> = flow.client.processes.iter().map(|process| process.pid).collect();
        assert_eq!(pids, [1, 77]);
        assert!(flow.server.processes.is_empty() && flow.server.netns.is_none());
    }

    #[test]
    fn whoever_listens_is_the_server() {
        // The client has the lower port.
        let listening = with(socket(3, "0.0.0.0:50000", "0.0.0.0:0"), |socket| {
            socket.is_listening = true
        });
        let client = socket(1, "127.0.0.1:40000", "127.0.0.1:50000");
        let server = socket(2, "127.0.0.1:50000", "127.0.0.1:40000");
        let (flows, listeners) = pair(vec![listening, server, client]);
        assert_eq!((flows[0].client.port, flows[0].server.port), (40000, 50000));
        assert_eq!(listeners[0].port, 50000);
    }

    #[test]
    fn the_same_addresses_in_two_namespaces_are_two_connections() {
        let elsewhere = |inode, local, remote| with(socket(inode, local, remote), |socket| socket.netns = 2);
        let (flows, _) = pair(vec![
            socket(1, CLIENT, SERVER),
            elsewhere(2, CLIENT, SERVER),
            elsewhere(3, SERVER, CLIENT),
            socket(4, SERVER, CLIENT),
        ]);
        let pids: Vec<_> = flows
            .iter()
            .map(|flow| (flow.client.processes[0].pid, flow.server.processes[0].pid))
            .collect();
        assert_eq!(pids, [(1, 4), (2, 3)]);
    }

    #[test]
    fn the_reason_is_that_of_the_end_that_was_refused() {
        let client = || socket(1, CLIENT, SERVER);
        let server = || socket(2, SERVER, CLIENT);
        let reason = |sockets| only_flow(sockets).reason;
        assert_eq!(
            reason(vec![refused(client(), "refused_blocking"), server()]),
            "refused_blocking"
        );
        assert_eq!(
            reason(vec![client(), refused(server(), "refused_blocking")]),
            "refused_blocking_server"
        );
        assert_eq!(reason(vec![client(), server()]), "not_followed");
        let unpaired = || refused(client(), "adopt_unpaired");
        assert_eq!(reason(vec![unpaired(), server()]), "adopt_unpaired");
        assert_eq!(
            reason(vec![unpaired(), refused(server(), "adopt_waited")]),
            "adopt_waited"
        );
        assert_eq!(reason(vec![server()]), "refused_unpaired");
        let unknown = followed(server(), true, FlowState::TcpOnly, "refused_unknown_server");
        let decided = followed(client(), false, FlowState::TcpOnly, "tcp_only_blocking");
        assert_eq!(reason(vec![decided, unknown]), "refused_unknown_server");
    }
}
