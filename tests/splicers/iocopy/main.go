// A TCP relay as Go programs write it: io.Copy in both directions, which splices.
//
// usage: iocopy LISTEN TARGET
package main

import (
	"io"
	"log"
	"net"
	"os"
)

// Ends the other stream when this one has ended, so that half-closed connections are relayed too.
func pass(into, from *net.TCPConn, done chan<- struct{}) {
	if _, err := io.Copy(into, from); err != nil {
		into.SetLinger(0)
		into.Close()
		from.SetLinger(0)
		from.Close()
	} else {
		into.CloseWrite()
	}
	done <- struct{}{}
}

func relay(client *net.TCPConn, target string) {
	defer client.Close()
	connection, err := net.Dial("tcp", target)
	if err != nil {
		log.Fatal(err)
	}
	server := connection.(*net.TCPConn)
	defer server.Close()
	done := make(chan struct{})
	go pass(server, client, done)
	go pass(client, server, done)
	<-done
	<-done
}

func main() {
	listener, err := net.Listen("tcp", os.Args[1])
	if err != nil {
		log.Fatal(err)
	}
	for {
		client, err := listener.Accept()
		if err != nil {
			log.Fatal(err)
		}
		go relay(client.(*net.TCPConn), os.Args[2])
	}
}
