// Package cluster runs a Pallium cluster as processes on this machine: Redis, the
// emulators of Bigtable and Cloud Storage, three ingesters in three zones, two
// processes with distributor and querier, two query frontends, a compactor and two
// gateways. `make cluster` and the cluster tests use it.
//
// For every process the cluster's directory contains NAME.pid with its process ID,
// NAME.log with its output, and NAME.sh, which starts it.
package cluster

import (
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/palliumhq/pallium/test/kit"
)

// Binaries are the programs of a cluster.
type Binaries struct {
	Pallium, Redis, Bigtable, GCS string
}

// Options of a cluster.
type Options struct {
	Dir      string // absolute
	Binaries Binaries
	// Free uses free ports instead of the documented ones.
	Free bool
	// AdminTokenFile contains the admin token; it is created if missing. The default is
	// a file in Dir.
	AdminTokenFile string
	// Config is additional YAML for every backend process, Env additional environment variables for
	// all processes.
	Config string
	Env    []string
	// Memory returns the memory limit of a Pallium process in bytes; if it is nil or
	// returns 0, the process detects the machine's memory.
	Memory func(name string) int64
	// Namespace runs one ingester in a network namespace of its own; nil disables that.
	Namespace *Namespace
	// TwoCompactors adds compactor-2.
	TwoCompactors bool
	// Rulers is the number of rulers: ruler-1 and so on, at most two.
	Rulers int
	// Alertmanagers is the number of Alertmanagers: alertmanager-1 and so on, at most three.
	Alertmanagers int
	// Through returns the address that Pallium must use to reach a process at an address, for tests
	// that put a proxy in between. It is called for Redis, Bigtable, Cloud Storage, and the RPC
	// addresses of backends, with the names "inside-redis", "inside-bigtable" and "inside-gcs" for
	// the ingester in a namespace, and "ruler-1-bigtable" and so on for each ruler and
	// Alertmanager. nil replaces no address.
	Through func(name, address string) string
	// QueriersApart makes queriers and query frontends use the addresses that Through returns for
	// "querier-bigtable" and "querier-gcs".
	QueriersApart bool
	// CacheRedis is the address of the Redis of the results cache; empty means the Redis of the ring.
	CacheRedis string
}

// Namespace is an existing network namespace that is connected to this machine by a
// pair of addresses.
type Namespace struct {
	Name     string
	Ingester string // the ingester that runs in it
	IP       string // of the ingester
}

// Process is one process of a cluster.
type Process struct {
	Name  string
	Addr  string // for other processes; of a gateway, its edge
	Admin string // admin listener; empty for programs other than Pallium
	args  []string
	env   []string
}

// Cluster is a cluster whose files were written; it may be running or not.
type Cluster struct {
	o         Options
	Processes []Process
	Edges     []string // URLs of the gateways
	AdminURL  string   // of the first gateway
	Token     string   // of the tenant demo, to read, write and delete metrics
	admin     string   // token
	common    string   // configuration of the stores
	redis     string   // address

	bigtable, gcsURL string // for rulers; the address of Bigtable is the one at which it listens

	commonInside, redisInside string // for the ingester in a namespace
	commonQuerier             string // for processes with a querier or a query frontend
}

// Dir returns the cluster's directory.
func (c *Cluster) Dir() string { return c.o.Dir }

const (
	project, instance, bucket = "local", "local", "pallium"

	// Tenant is the tenant of Token.
	Tenant = "demo"
)

// startTimeout is long because test machines are busy.
const startTimeout = 3 * time.Minute

// documented contains the first documented port of each process.
var documented = map[string]int{
	"redis": 9379, "bigtable": 9086, "gcs": 9443,
	"ingester-1": 9121, "ingester-2": 9131, "ingester-3": 9141,
	"backend-1": 9151, "backend-2": 9161, "compactor-1": 9171, "compactor-2": 9181,
	"frontend-1": 9191, "frontend-2": 9201, "ruler-1": 9211, "ruler-2": 9221,
	"alertmanager-1": 9231, "alertmanager-2": 9241, "alertmanager-3": 9251,
	"gateway-1": 9009, "gateway-2": 9019,
}

// New creates the cluster's directory, secrets and configuration files, and starts
// nothing.
func New(o Options) (*Cluster, error) {
	if err := os.MkdirAll(o.Dir, 0o755); err != nil {
		return nil, err
	}
	if o.AdminTokenFile == "" {
		o.AdminTokenFile = filepath.Join(o.Dir, "admin-token")
	}
	if o.Through == nil {
		o.Through = func(_, address string) string { return address }
	}
	c := &Cluster{o: o}
	for _, path := range []string{o.AdminTokenFile, c.path("key-pepper"), c.path("cluster-secret"), c.path("secret-key")} {
		if err := makeSecret(path); err != nil {
			return nil, err
		}
	}
	token, err := os.ReadFile(o.AdminTokenFile)
	if err != nil {
		return nil, err
	}
	c.admin = strings.TrimSpace(string(token))
	redis, bigtable, gcs := c.address("redis", 0), c.address("bigtable", 0), c.address("gcs", 0)
	_, redisPort, _ := net.SplitHostPort(redis)
	_, bigtablePort, _ := net.SplitHostPort(bigtable)
	_, gcsPort, _ := net.SplitHostPort(gcs)
	gcsURL := "http://" + o.Through("gcs", gcs)
	c.add(Process{Name: "redis", Addr: redis, args: []string{o.Binaries.Redis, "--port", redisPort,
		"--bind", "127.0.0.1", "--save", "", "--appendonly", "no", "--dir", o.Dir}})
	c.add(Process{Name: "bigtable", Addr: bigtable, args: []string{o.Binaries.Bigtable, "-host", "127.0.0.1", "-port", bigtablePort}})
	c.add(Process{Name: "gcs", Addr: gcs, args: []string{o.Binaries.GCS, "-scheme", "http", "-host", "127.0.0.1", "-port", gcsPort,
		"-backend", "memory", "-external-url", gcsURL, "-public-host", strings.TrimPrefix(gcsURL, "http://"), "-log-level", "error"}})
	c.common, c.redis = stores(o.Through("bigtable", bigtable), gcsURL), o.Through("redis", redis)
	c.bigtable, c.gcsURL = bigtable, gcsURL
	c.commonQuerier = c.common
	if o.QueriersApart {
		c.commonQuerier = stores(o.Through("querier-bigtable", bigtable), "http://"+o.Through("querier-gcs", gcs))
	}
	if o.Namespace != nil {
		c.commonInside = stores(o.Through("inside-bigtable", bigtable), "http://"+o.Through("inside-gcs", gcs))
		c.redisInside = o.Through("inside-redis", redis)
	}
	c.backends()
	return c, c.gateways()
}

// stores returns the configuration of the two stores.
func stores(bigtable, gcs string) string {
	return fmt.Sprintf(`store:
  bigtable: {project: %s, instance: %s, emulator: "%s"}
  gcs: {bucket: %s, endpoint: "%s"}
`, project, instance, bigtable, bucket, gcs)
}

// backend adds a backend process.
func (c *Cluster) backend(name, zone, target string) {
	rpc := c.address(name, 0)
	common, redis := c.common, c.redis
	if strings.Contains(target, "quer") { // querier, query-frontend
		common = c.commonQuerier
	}
	if target == "ruler" || target == "alertmanager" {
		common = stores(c.o.Through(name+"-bigtable", c.bigtable), c.gcsURL)
	}
	if n := c.o.Namespace; n != nil && n.Ingester == name {
		common, redis = c.commonInside, c.redisInside
	}
	cache := redis
	if c.o.CacheRedis != "" {
		cache = c.o.CacheRedis
	}
	text := common + fmt.Sprintf(`data_dir: %s
rpc_listen: "%s"
internal_listen: "%s"
admin_listen: "%s"
cluster:
  instance: %s
  advertise: "%s"
  zone: %q
  redis: {addresses: ["%s"]}
  cache_redis: {addresses: ["%s"]}
ingester: {memory_bytes: 536870912}
compactor: {interval: 30s}
shutdown_timeout: 25s
%s`, c.path(name), rpc, c.address(name, 1), c.address(name, 2), name, c.o.Through(name, rpc), zone, redis, cache, c.o.Config)
	c.pallium(name, rpc, c.address(name, 2), text, "backend", "-target="+target)
	if strings.Contains(target, "quer") || target == "alertmanager" {
		p := &c.Processes[len(c.Processes)-1]
		p.env = append(p.env, "PALLIUM_SECRET_KEY_FILE="+c.path("secret-key"))
	}
}

// backends adds the backend processes that every cluster has.
func (c *Cluster) backends() {
	for i, zone := range []string{"zone-a", "zone-b", "zone-c"} {
		c.backend(fmt.Sprintf("ingester-%d", i+1), zone, "ingester")
	}
	c.backend("backend-1", "", "distributor,querier")
	c.backend("backend-2", "", "distributor,querier")
	c.backend("frontend-1", "", "query-frontend")
	c.backend("frontend-2", "", "query-frontend")
	c.backend("compactor-1", "", "compactor")
	if c.o.TwoCompactors {
		c.backend("compactor-2", "", "compactor")
	}
	for i := range c.o.Rulers {
		c.backend(fmt.Sprintf("ruler-%d", i+1), "", "ruler")
	}
	for i := range c.o.Alertmanagers {
		c.backend(fmt.Sprintf("alertmanager-%d", i+1), "", "alertmanager")
	}
}

func (c *Cluster) gateways() error {
	for _, name := range []string{"gateway-1", "gateway-2"} {
		edge, admin := c.address(name, 0), c.address(name, 1)
		text := c.common + fmt.Sprintf(`data_dir: %s
listen: "%s"
admin_listen: "%s"
external_url: "http://%s"
upstream: {urls: ["http://%s", "http://%s"]}
cluster: {instance: %s, cache_redis: {addresses: ["%s"]}}
shutdown_timeout: 25s
`, c.path(name), edge, admin, edge, c.address("backend-1", 1), c.address("backend-2", 1), name, c.redis)
		c.pallium(name, edge, admin, text, "gateway")
		c.Edges = append(c.Edges, "http://"+edge)
	}
	c.AdminURL = "http://" + c.address("gateway-1", 1)
	return c.writeFiles()
}

// pallium adds a Pallium process and writes its configuration file.
func (c *Cluster) pallium(name, addr, admin, config string, args ...string) {
	file := c.path(name + ".yaml")
	if c.o.Memory != nil {
		config += fmt.Sprintf("memory: {limit_bytes: %d}\n", c.o.Memory(name))
	}
	p := Process{Name: name, Addr: addr, Admin: "http://" + admin, args: append([]string{c.o.Binaries.Pallium}, args...)}
	p.args = append(p.args, "-config", file)
	p.env = []string{"PALLIUM_CLUSTER_SECRET_FILE=" + c.path("cluster-secret")}
	if args[0] == "gateway" {
		p.env = append(p.env, "PALLIUM_ADMIN_TOKEN_FILE="+c.o.AdminTokenFile, "PALLIUM_KEY_PEPPER_FILE="+c.path("key-pepper"))
	}
	c.add(p)
	_ = os.WriteFile(file, []byte(config), 0o644) // the start reports a failure
}

func (c *Cluster) add(p Process) { c.Processes = append(c.Processes, p) }

func (c *Cluster) path(name string) string { return filepath.Join(c.o.Dir, name) }

// address returns the k-th address on which a process listens: its documented port plus k, or a
// free port, which is stored for later calls.
func (c *Cluster) address(name string, k int) string {
	ip := "127.0.0.1:"
	if n := c.o.Namespace; n != nil && n.Ingester == name {
		ip = n.IP + ":"
	}
	if !c.o.Free {
		return ip + strconv.Itoa(documented[name]+k)
	}
	file := c.path(fmt.Sprintf("%s.port%d", name, k))
	if data, err := os.ReadFile(file); err == nil {
		return ip + string(data)
	}
	free, err := kit.FreePort()
	if err != nil {
		return ip + "0"
	}
	_ = os.WriteFile(file, []byte(free), 0o644) // the start reports a failure
	return ip + free
}

// writeFiles writes the scripts that start the processes.
func (c *Cluster) writeFiles() error {
	for _, p := range c.Processes {
		var b strings.Builder
		fmt.Fprintf(&b, "#!/bin/sh\n# Starts %s (again) in the background.\ncd %s || exit 1\n", p.Name, quote(c.o.Dir))
		for _, e := range append(p.env, c.o.Env...) {
			name, value, _ := strings.Cut(e, "=")
			fmt.Fprintf(&b, "export %s=%s\n", name, quote(value))
		}
		b.WriteString("unset BIGTABLE_EMULATOR_HOST STORAGE_EMULATOR_HOST\n")
		b.WriteString("exec 3>&- 4>&- 5>&- 6>&- 7>&- 8>&- 9>&-\n") // inherited from the shell that runs the script
		args := make([]string, len(p.args))
		for i, a := range p.args {
			args[i] = quote(a)
		}
		if n := c.o.Namespace; n != nil && n.Ingester == p.Name {
			fmt.Fprintf(&b, "WRAP=\"ip netns exec %s $WRAP\"\n", n.Name)
		}
		fmt.Fprintf(&b, "setsid $WRAP %s >>%s.log 2>&1 </dev/null &\necho $! >%s.pid\n", strings.Join(args, " "), p.Name, p.Name)
		if err := os.WriteFile(c.path(p.Name+".sh"), []byte(b.String()), 0o755); err != nil {
			return err
		}
	}
	return nil
}

func quote(s string) string { return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'" }

// makeSecret creates a secret unless the file exists.
func makeSecret(path string) error {
	if _, err := os.Stat(path); !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	var b [32]byte
	_, _ = rand.Read(b[:]) // never fails
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	return os.WriteFile(path, []byte(hex.EncodeToString(b[:])+"\n"), 0o600)
}
