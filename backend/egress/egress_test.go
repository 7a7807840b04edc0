package egress

import (
	"context"
	"errors"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"testing"
)

func TestCheck(t *testing.T) {
	for _, tt := range []struct {
		address string
		allow   []string
		why     string // part of the error; "" if the address is allowed
	}{
		{"8.8.8.8", nil, ""}, {"2606:4700::1111", nil, ""}, {"172.32.0.1", nil, ""}, {"11.0.0.1", nil, ""}, {"192.0.1.1", nil, ""},
		{"100.63.255.255", nil, ""}, {"64:ff9b::808:808", nil, ""}, {"2002:808:808::1", nil, ""},
		{"127.0.0.1", nil, "loopback"}, {"127.255.255.254", nil, "loopback"}, {"::1", nil, "loopback"},
		{"0.0.0.0", nil, "this host"}, {"0.1.2.3", nil, "this host"}, {"::", nil, "this host"},
		{"10.0.0.1", nil, "private"}, {"172.16.0.1", nil, "private"}, {"172.31.255.255", nil, "private"}, {"192.168.1.1", nil, "private"},
		{"fd00:ec2::254", nil, "private"}, {"fec0::1", nil, "private"},
		{"169.254.169.254", nil, "link-local"}, {"fe80::1", nil, "link-local"}, {"fe80::1%eth0", nil, "link-local"},
		{"100.100.100.200", nil, "shared"}, {"192.0.0.192", nil, "reserved"}, {"168.63.129.16", nil, "Azure"},
		{"224.0.0.1", nil, "multicast"}, {"ff01::1", nil, "multicast"}, {"ff02::1", nil, "multicast"}, {"255.255.255.255", nil, "reserved"},
		{"::ffff:127.0.0.1", nil, "loopback"}, {"::ffff:169.254.169.254", nil, "link-local"},
		{"64:ff9b::7f00:1", nil, "loopback"}, {"64:ff9b::a9fe:a9fe", nil, "link-local"}, {"64:ff9b:1::1", nil, "translated"},
		{"2002:7f00:1::", nil, "loopback"}, {"2002:a00:1::1", nil, "private"}, {"::127.0.0.1", nil, "loopback"}, {"2001:0:1::", nil, "reserved"},
		{"10.1.2.3", []string{"10.0.0.0/8"}, ""}, {"11.1.2.3", []string{"10.0.0.0/8"}, ""}, {"127.0.0.1", []string{"10.0.0.0/8"}, "loopback"},
		{"127.0.0.1", []string{"127.0.0.1"}, ""}, {"127.0.0.2", []string{"127.0.0.1"}, "loopback"}, {"::ffff:127.0.0.1", []string{"127.0.0.1"}, ""},
		{"fd00::1", []string{"fd00::/8"}, ""}, {"fe80::1%eth0", []string{"fe80::/10"}, ""},
		{"64:ff9b::a00:1", []string{"10.0.0.0/8"}, "private"}, // the operator allowed the network, but not its addresses behind a translator
	} {
		r, err := New(tt.allow)
		if err != nil {
			t.Fatal(err)
		}
		err = r.Check(netip.MustParseAddr(tt.address))
		if (err == nil) != (tt.why == "") || err != nil && (!errors.Is(err, ErrDenied) || !strings.Contains(err.Error(), tt.why)) {
			t.Errorf("Check(%s) with allow %v: %v, want %q", tt.address, tt.allow, err, tt.why)
		}
	}
	if err := (&Rules{}).Check(netip.Addr{}); !errors.Is(err, ErrDenied) {
		t.Errorf("Check of the zero address: %v", err)
	}
}

func TestNew(t *testing.T) {
	for _, text := range []string{"", "x", "10.0.0.0/33", "10.0.0.0/", "example.com", "fe80::1%eth0", "::ffff:10.0.0.0/104", "10.0.0.1:80"} {
		if _, err := New([]string{"10.0.0.0/8", text}); err == nil || !strings.Contains(err.Error(), "10.0.0.0") {
			t.Errorf("New accepted the network %q: %v", text, err)
		}
	}
}

// TestDial checks that connections to names, to literal addresses in several notations and to targets of redirects are
// denied.
func TestDial(t *testing.T) {
	reached := 0
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		reached++
		if to := r.URL.Query().Get("to"); to != "" {
			http.Redirect(w, r, to, http.StatusTemporaryRedirect)
		}
	}))
	defer server.Close()
	_, port, _ := net.SplitHostPort(server.Listener.Addr().String())
	client := func(allow ...string) *http.Client {
		r, err := New(allow)
		if err != nil {
			t.Fatal(err)
		}
		return &http.Client{Transport: &http.Transport{DialContext: r.DialContext}}
	}
	for _, host := range []string{"127.0.0.1", "localhost", "[::1]", "[::ffff:127.0.0.1]", "0.0.0.0", "[::]", "127.1"} {
		resp, err := client().Get("http://" + host + ":" + port + "/")
		if err == nil {
			resp.Body.Close()
		}
		if err == nil || reached != 0 {
			t.Fatalf("a request to %s was sent: %v", host, err)
		}
		if host != "127.1" && !errors.Is(err, ErrDenied) { // 127.1 is a name that may not resolve
			t.Errorf("a request to %s: %v, want ErrDenied", host, err)
		}
	}
	resp, err := client("127.0.0.1").Get(server.URL)
	if err != nil || reached != 1 {
		t.Fatalf("a request to an allowed address: %v, %d requests arrived", err, reached)
	}
	resp.Body.Close()
	if _, err := client("127.0.0.1").Get(server.URL + "/?to=http://127.0.0.2:" + port + "/"); !errors.Is(err, ErrDenied) || reached != 2 {
		t.Errorf("a redirect to an address that is not allowed: %v, %d requests arrived", err, reached)
	}
	if _, err := new(Rules).DialContext(context.Background(), "unix", "/x"); err == nil {
		t.Error("a connection to a Unix socket was made")
	}
	if err := new(Rules).Control("udp4", "8.8.8.8:53", nil); !errors.Is(err, ErrDenied) {
		t.Errorf("Control of UDP: %v", err)
	}
}
