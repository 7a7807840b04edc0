package cluster

import (
	"os/exec"
	"testing"

	"github.com/palliumhq/pallium/test/kit/cluster"
)

// Addresses of this machine and of an ingester in a network namespace, and the name of this
// machine's interface to it. The addresses are from a range that is reserved for tests.
const (
	hostIP   = "198.18.77.1"
	insideIP = "198.18.77.2"
	hostLink = "plmchaos0"
)

// newNamespace creates a network namespace with a link to this machine, and removes it
// when the test ends. It requires root.
func newNamespace(t testing.TB) *cluster.Namespace {
	t.Helper()
	const name = "plmchaos"
	_ = exec.Command("ip", "netns", "del", name).Run() // left behind by a killed run
	_ = exec.Command("ip", "link", "del", hostLink).Run()
	for _, args := range [][]string{
		{"netns", "add", name},
		{"link", "add", hostLink, "type", "veth", "peer", "name", "plmchaos1", "netns", name},
		{"addr", "add", hostIP + "/30", "dev", hostLink},
		{"link", "set", hostLink, "up"},
		{"-n", name, "addr", "add", insideIP + "/30", "dev", "plmchaos1"},
		{"-n", name, "link", "set", "plmchaos1", "up"},
		{"-n", name, "link", "set", "lo", "up"},
	} {
		run(t, "ip", args...)
	}
	t.Cleanup(func() { _ = exec.Command("ip", "netns", "del", name).Run() })
	return &cluster.Namespace{Name: name, Ingester: "ingester-3", IP: insideIP}
}

// run runs a command that must succeed.
func run(t testing.TB, name string, args ...string) {
	t.Helper()
	if out, err := exec.Command(name, args...).CombinedOutput(); err != nil {
		t.Fatalf("%s %v: %v: %s (the long chaos run needs root and network namespaces)", name, args, err, out)
	}
}
