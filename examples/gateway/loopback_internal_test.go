package main

import (
	"net"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestManagementIsOnLoopbackOnly(t *testing.T) {
	for ip, want := range map[string]bool{
		"127.0.0.1": true, "127.8.8.8": true, "::1": true, "0.0.0.0": false, "::": false, "192.168.1.2": false, "::ffff:10.0.0.1": false,
	} {
		require.Equal(t, want, onLoopback(&net.TCPAddr{IP: net.ParseIP(ip), Port: 8080}), ip)
	}
	require.False(t, onLoopback(&net.UnixAddr{Name: "gateway.sock", Net: "unix"}))
}
