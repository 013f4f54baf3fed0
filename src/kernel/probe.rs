//! Tries on one connection of the tool's own whether this kernel delivers redirected bytes as the datapath counts on.

use std::io::{self, Read as _, Write as _};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::os::fd::AsRawFd as _;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use libbpf_rs::{MapCore as _, MapFlags};

use super::Datapath;
use super::sys::unread_bytes;

/// Longer than any of the probe's deliveries takes on a busy machine; only a kernel that fails the probe waits so long.
const PATIENCE: Duration = Duration::from_secs(2);
const CLIENT: u32 = 0;
const SERVER: u32 = 1;
/// A target that is not in the map: messages go through TCP.
const NOBODY: u32 = u32::MAX;
const REDIRECTED: &[u8] = b"redirected";
const THROUGH_TCP: &[u8] = b"through tcp";
const AFTERWARDS: &[u8] = b"afterwards";

impl Datapath<'_> {
    /// Fails with what this kernel gets wrong. Uses a map of its own; needs the loopback interface of the network namespace.
    pub fn probe(&mut self) -> Result<()> {
        let (client, server) = connected_pair().context(
            "failed to try the kernel on a loopback connection (bring it up with `ip link set lo up`)",
        )?;
        let map = &self.skel.maps.sockredir_probe;
        for program in [&self.skel.progs.sockredir_try, &self.skel.progs.sockredir_skb] {
            program.attach_sockmap(super::fd_of(map)).with_context(|| {
                format!(
                    "failed to attach {} to the probe's map",
                    program.name().to_string_lossy()
                )
            })?;
        }
        for (index, end) in [(CLIENT, &client), (SERVER, &server)] {
            map.update(
                &index.to_ne_bytes(),
                &end.as_raw_fd().to_ne_bytes(),
                MapFlags::ANY,
            )
            .context("failed to put the probe's connection into its map")?;
        }

        self.set_probe_target(SERVER)?;
        send(&client, REDIRECTED)?;
        if !holds(&server, REDIRECTED.len())? {
            bail!(
                "this kernel's FIONREAD does not count redirected bytes, and programs that ask before they read would \
                 hang: Linux 6.12.75, 6.18.14 and later count them"
            );
        }
        self.set_probe_target(NOBODY)?;
        send(&client, THROUGH_TCP)?;
        if !holds(&server, REDIRECTED.len() + THROUGH_TCP.len())? {
            bail!(
                "this kernel keeps redirected bytes and those of TCP in two queues, and programs that stop at a short \
                 read would hang: Linux 6.12.75, 6.18.14 and later keep one"
            );
        }
        if receive(&server, REDIRECTED.len() + THROUGH_TCP.len())? != [REDIRECTED, THROUGH_TCP].concat() {
            bail!("this kernel delivers redirected bytes out of order: use a newer one");
        }
        let map = &self.skel.maps.sockredir_probe;
        for index in [CLIENT, SERVER] {
            map.delete(&index.to_ne_bytes())
                .context("failed to take the probe's connection out of its map")?;
        }
        send(&client, AFTERWARDS)?;
        if receive(&server, AFTERWARDS.len())? != AFTERWARDS {
            bail!(
                "this kernel loses bytes of connections that leave the socket map: Linux 6.12.75, 6.18.14 and later do \
                 not"
            );
        }
        Ok(())
    }

    fn set_probe_target(&mut self, target: u32) -> Result<()> {
        let bss = self
            .skel
            .maps
            .bss_data
            .as_deref_mut()
            .context("the datapath's object has no variables")?;
        bss.probe_target = target;
        Ok(())
    }
}

fn connected_pair() -> io::Result<(TcpStream, TcpStream)> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    let client = TcpStream::connect(listener.local_addr()?)?;
    let (server, _) = listener.accept()?;
    server.set_read_timeout(Some(PATIENCE))?;
    Ok((client, server))
}

fn send(mut client: &TcpStream, bytes: &[u8]) -> Result<()> {
    client
        .write_all(bytes)
        .context("failed to send on the probe's connection")
}

/// Up to `size` bytes; fewer if no more arrive.
fn receive(mut server: &TcpStream, size: usize) -> Result<Vec<u8>> {
    let mut bytes = vec![0; size];
    let mut got = 0;
    while got < size {
        match server.read(&mut bytes[got..]) {
            Ok(0) => break,
            Ok(more) => got += more,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
            Err(error) => return Err(error).context("failed to receive on the probe's connection"),
        }
    }
    bytes.truncate(got);
    Ok(bytes)
}

/// Whether the server comes to hold so many unread bytes.
fn holds(server: &TcpStream, size: usize) -> Result<bool> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if unread_bytes(server).context("failed to ask for the probe's unread bytes")? == size {
            return Ok(true);
        }
        if Instant::now() > deadline {
            return Ok(false);
        }
        thread::sleep(Duration::from_millis(1));
    }
}
