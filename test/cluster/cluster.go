// Package cluster runs a Pallium cluster as processes of this machine: Redis,
// the emulators of Bigtable and Cloud Storage, three ingesters in three zones,
// two processes that distribute and query, a compactor and two gateways. `make
// cluster` and the tests of the cluster use it.
//
// Every process has a file NAME.pid with its number, NAME.log with what it
// prints, and NAME.sh that starts it (again), in the cluster's directory.
package cluster

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/palliumhq/pallium/test/ports"
)

// Binaries are the programs of a cluster.
type Binaries struct {
	Pallium, Redis, Bigtable, GCS string
}

// Options of a cluster.
type Options struct {
	Dir      string // absolute
	Binaries Binaries
	// Free takes free ports instead of the documented ones.
	Free bool
	// AdminTokenFile holds the admin token; it is made when missing. Default: in
	// Dir.
	AdminTokenFile string
	// Config is more YAML for every backend process, Env more environment.
	Config string
	Env    []string
	// Memory is how much memory a process of ours is told to use, in bytes; nil or 0:
	// what the machine has.
	Memory func(name string) int64
	// Namespace runs one ingester in a network namespace of its own; nil: none does.
	Namespace *Namespace
	// TwoCompactors adds compactor-2.
	TwoCompactors bool
	// Through replaces the addresses at which Pallium reaches Redis, Bigtable and
	// Cloud Storage, for tests that stand in between. nil: none.
	Through func(name, address string) string
}

// Namespace is a network namespace that exists and is joined to this machine by a
// pair of addresses.
type Namespace struct {
	Name     string
	Ingester string // that runs in it
	IP       string // of the ingester
}

// Process is one process of a cluster.
type Process struct {
	Name  string
	Addr  string // where it serves others
	Admin string // its admin listener; empty for foreign programs
	args  []string
	env   []string
}

// Cluster is a cluster that was laid out, running or not.
type Cluster struct {
	o         Options
	Processes []Process
	Edges     []string // URLs of the gateways
	AdminURL  string   // of the first gateway
	Token     string   // of the tenant demo, may read and write
	admin     string   // token
	common    string   // configuration of all
	redis     string   // address

	commonInside, redisInside string // of the ingester in a namespace
}

// Dir is the cluster's directory.
func (c *Cluster) Dir() string { return c.o.Dir }

const (
	project, instance, bucket = "local", "local", "pallium"

	// Tenant is the tenant that Token belongs to.
	Tenant = "demo"
)

// startTimeout is generous: test machines are busy.
const startTimeout = 3 * time.Minute

// documented are the ports of each process.
var documented = map[string]int{
	"redis": 9379, "bigtable": 9086, "gcs": 9443,
	"ingester-1": 9121, "ingester-2": 9131, "ingester-3": 9141,
	"backend-1": 9151, "backend-2": 9161, "compactor-1": 9171, "compactor-2": 9181,
	"gateway-1": 9009, "gateway-2": 9019,
}

// New lays a cluster out: its directory, secrets and configuration files.
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
	for _, path := range []string{o.AdminTokenFile, c.path("key-pepper"), c.path("cluster-secret")} {
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
	c.add(Process{Name: "redis", Addr: redis, args: []string{o.Binaries.Redis, "--port", redisPort, "--bind", "127.0.0.1", "--save", "", "--appendonly", "no", "--dir", o.Dir}})
	c.add(Process{Name: "bigtable", Addr: bigtable, args: []string{o.Binaries.Bigtable, "-host", "127.0.0.1", "-port", bigtablePort}})
	c.add(Process{Name: "gcs", Addr: gcs, args: []string{o.Binaries.GCS, "-scheme", "http", "-host", "127.0.0.1", "-port", gcsPort,
		"-backend", "memory", "-external-url", gcsURL, "-public-host", strings.TrimPrefix(gcsURL, "http://"), "-log-level", "error"}})
	c.common, c.redis = stores(o.Through("bigtable", bigtable), gcsURL), o.Through("redis", redis)
	if o.Namespace != nil {
		c.commonInside = stores(o.Through("inside-bigtable", bigtable), "http://"+o.Through("inside-gcs", gcs))
		c.redisInside = o.Through("inside-redis", redis)
	}
	c.backends()
	return c, c.gateways()
}

// stores is the configuration of the two stores.
func stores(bigtable, gcs string) string {
	return fmt.Sprintf(`store:
  bigtable: {project: %s, instance: %s, emulator: "%s"}
  gcs: {bucket: %s, endpoint: "%s"}
`, project, instance, bigtable, bucket, gcs)
}

// backend adds a process of the backend.
func (c *Cluster) backend(name, zone, target string) {
	rpc := c.address(name, 0)
	common, redis := c.common, c.redis
	if n := c.o.Namespace; n != nil && n.Ingester == name {
		common, redis = c.commonInside, c.redisInside
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
ingester: {memory_bytes: 536870912}
compactor: {interval: 30s}
shutdown_timeout: 25s
%s`, c.path(name), rpc, c.address(name, 1), c.address(name, 2), name, c.o.Through(name, rpc), zone, redis, c.o.Config)
	c.pallium(name, rpc, c.address(name, 2), text, "backend", "-target="+target)
}

// backends adds those that a cluster begins with.
func (c *Cluster) backends() {
	for i, zone := range []string{"zone-a", "zone-b", "zone-c"} {
		c.backend(fmt.Sprintf("ingester-%d", i+1), zone, "ingester")
	}
	c.backend("backend-1", "", "distributor,querier")
	c.backend("backend-2", "", "distributor,querier")
	c.backend("compactor-1", "", "compactor")
	if c.o.TwoCompactors {
		c.backend("compactor-2", "", "compactor")
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

// pallium adds a process of ours and its configuration file.
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
	_ = os.WriteFile(file, []byte(config), 0o644) // a failure is that of the start
}

func (c *Cluster) add(p Process) { c.Processes = append(c.Processes, p) }

func (c *Cluster) path(name string) string { return filepath.Join(c.o.Dir, name) }

// address is where a process listens: its documented port and the next ones, or
// free ports, which are kept for the next time.
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
	free, err := ports.Free()
	if err != nil {
		return ip + "0"
	}
	_ = os.WriteFile(file, []byte(free), 0o644) // a failure is that of the start
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
		b.WriteString("exec 3>&- 4>&- 5>&- 6>&- 7>&- 8>&- 9>&-\n") // of the shell that this is called from
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

// makeSecret writes a new secret where there is none.
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

// Reset deletes what the processes of an earlier run left: the emulators begin
// empty, and ingesters that remember uploads to others would be wrong.
func (c *Cluster) Reset() error {
	var errs error
	for _, p := range c.Processes {
		errs = errors.Join(errs, os.RemoveAll(c.path(p.Name)), os.RemoveAll(c.path(p.Name+".log")))
	}
	return errs
}

// Up starts everything in order, creates the tenant and its token, and writes
// cluster.env.
func (c *Cluster) Up(ctx context.Context) error {
	for _, name := range []string{"redis", "bigtable", "gcs"} {
		if err := c.Start(ctx, name); err != nil {
			return err
		}
	}
	if err := c.makeBucket(ctx); err != nil {
		return err
	}
	cmd := exec.CommandContext(ctx, c.o.Binaries.Pallium, "migrate", "up", "-config", c.path("gateway-1.yaml"))
	cmd.Env = append(os.Environ(), "BIGTABLE_EMULATOR_HOST=", "STORAGE_EMULATOR_HOST=")
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("pallium migrate up: %w\n%s", err, out)
	}
	for _, p := range c.Processes[3:] {
		if err := c.launch(p.Name); err != nil {
			return err
		}
	}
	for _, p := range c.Processes[3:] {
		if err := c.WaitReady(ctx, p.Name); err != nil {
			return err
		}
	}
	if err := c.provision(ctx); err != nil {
		return err
	}
	env := fmt.Sprintf("EDGE_URLS=%q\nADMIN_URL=%q\nTOKEN=%q\n", strings.Join(c.Edges, " "), c.AdminURL, c.Token)
	tmp := c.path("cluster.env.tmp")
	if err := os.WriteFile(tmp, []byte(env), 0o600); err != nil {
		return err
	}
	return os.Rename(tmp, c.path("cluster.env"))
}

// Start starts a process and waits until it is ready.
func (c *Cluster) Start(ctx context.Context, name string) error {
	if err := c.launch(name); err != nil {
		return err
	}
	return c.WaitReady(ctx, name)
}

// StartWith is Start with a command in front of the program.
func (c *Cluster) StartWith(ctx context.Context, name, wrap string) error {
	if err := c.launch(name, "WRAP="+wrap); err != nil {
		return err
	}
	return c.WaitReady(ctx, name)
}

func (c *Cluster) launch(name string, env ...string) error {
	closeOnExec()
	cmd := exec.Command("sh", c.path(name+".sh"))
	cmd.Env = append(os.Environ(), env...)
	out, err := cmd.CombinedOutput()
	if err != nil {
		return fmt.Errorf("start %s: %w\n%s", name, err, out)
	}
	return nil
}

// closeOnExec keeps the files that this process was started with, by make or by a
// shell, from processes that it starts: they would be open for as long as those
// run. Files that Go opens are never passed on.
func closeOnExec() {
	open, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		return // not on this system
	}
	for _, e := range open {
		if fd, err := strconv.Atoi(e.Name()); err == nil && fd > 2 {
			syscall.CloseOnExec(fd)
		}
	}
}

// AddIngester starts one more ingester.
func (c *Cluster) AddIngester(ctx context.Context, name, zone string) error {
	c.backend(name, zone, "ingester")
	if err := c.writeFiles(); err != nil {
		return err
	}
	return c.Start(ctx, name)
}

// Process returns a process by its name.
func (c *Cluster) Process(name string) Process {
	for _, p := range c.Processes {
		if p.Name == name {
			return p
		}
	}
	panic("no process " + name)
}

// WaitReady waits until a process serves.
func (c *Cluster) WaitReady(ctx context.Context, name string) error {
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	p := c.Process(name)
	var err error
	for {
		if p.Admin != "" {
			err = get(ctx, p.Admin+"/ready")
		} else {
			err = dial(ctx, p.Addr)
		}
		if err == nil {
			return nil
		}
		if pid := c.pid(name); pid > 0 && syscall.Kill(pid, 0) != nil {
			return fmt.Errorf("%s ended:\n%s", name, c.Log(name))
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("%s does not get ready: %w\n%s", name, err, c.Log(name))
		case <-time.After(50 * time.Millisecond):
		}
	}
}

func get(ctx context.Context, url string) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return err
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	body, _ := io.ReadAll(io.LimitReader(resp.Body, 4096))
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("%s: %d %s", url, resp.StatusCode, bytes.TrimSpace(body))
	}
	return nil
}

func dial(ctx context.Context, addr string) error {
	var d net.Dialer
	conn, err := d.DialContext(ctx, "tcp", addr)
	if err != nil {
		return err
	}
	return conn.Close()
}

// Log is the end of what a process printed.
func (c *Cluster) Log(name string) string {
	data, _ := os.ReadFile(c.path(name + ".log"))
	const most = 8 << 10
	return string(data[max(0, len(data)-most):])
}

func (c *Cluster) pid(name string) int {
	data, err := os.ReadFile(c.path(name + ".pid"))
	if err != nil {
		return 0
	}
	pid, _ := strconv.Atoi(strings.TrimSpace(string(data)))
	return pid
}

// Signal sends a process a signal.
func (c *Cluster) Signal(name string, sig syscall.Signal) error {
	pid := c.pid(name)
	if pid <= 0 {
		return fmt.Errorf("%s does not run", name)
	}
	return syscall.Kill(pid, sig)
}

// Stop sends a process a signal and waits until it is gone.
func (c *Cluster) Stop(ctx context.Context, name string, sig syscall.Signal) error {
	if err := c.Signal(name, sig); err != nil && !errors.Is(err, syscall.ESRCH) {
		return err
	}
	for pid := c.pid(name); alive(pid); {
		select {
		case <-ctx.Done():
			return fmt.Errorf("%s does not end: %w", name, ctx.Err())
		case <-time.After(10 * time.Millisecond):
		}
	}
	return nil
}

// alive reports whether a process runs. One that ended and that nobody waited
// for does not.
func alive(pid int) bool {
	if pid <= 0 || syscall.Kill(pid, 0) != nil {
		return false
	}
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return false
	}
	_, rest, _ := strings.Cut(string(data), ") ")
	return !strings.HasPrefix(rest, "Z")
}

// Down ends everything.
func (c *Cluster) Down(ctx context.Context) error {
	var errs error
	_ = os.Remove(c.path("cluster.env"))
	for i := len(c.Processes) - 1; i >= 0; i-- {
		name := c.Processes[i].Name
		if c.pid(name) == 0 {
			continue
		}
		_ = c.Signal(name, syscall.SIGCONT)
		soft, cancel := context.WithTimeout(ctx, 30*time.Second)
		err := c.Stop(soft, name, syscall.SIGTERM)
		cancel()
		if err != nil {
			err = c.Stop(ctx, name, syscall.SIGKILL)
		}
		errs = errors.Join(errs, err, os.Remove(c.path(name+".pid")))
	}
	return errs
}

// Lose deletes an ingester's disk.
func (c *Cluster) Lose(name string) error { return os.RemoveAll(c.path(name)) }

func (c *Cluster) makeBucket(ctx context.Context) error {
	body, _ := json.Marshal(map[string]string{"name": bucket})
	resp, err := c.post(ctx, "http://"+c.Process("gcs").Addr+"/storage/v1/b?project="+project, body, "")
	if err != nil {
		return fmt.Errorf("make the bucket: %w", err)
	}
	if resp.code != http.StatusOK && resp.code != http.StatusConflict {
		return fmt.Errorf("make the bucket: %d %s", resp.code, resp.body)
	}
	return nil
}

type response struct {
	code int
	body []byte
}

func (c *Cluster) post(ctx context.Context, url string, body []byte, token string) (response, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, url, bytes.NewReader(body))
	if err != nil {
		return response{}, err
	}
	req.Header.Set("Content-Type", "application/json")
	if token != "" {
		req.Header.Set("Authorization", "Bearer "+token)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return response{}, err
	}
	defer resp.Body.Close()
	out, err := io.ReadAll(io.LimitReader(resp.Body, 1<<20))
	return response{resp.StatusCode, out}, err
}

// Admin has an operator's command carried out: by a gateway of that name, or by
// the first gateway that runs, which has an ingester or a compactor of that name do
// it; other backends are as good as any.
func (c *Cluster) Admin(ctx context.Context, name, path string, body []byte) (int, string, error) {
	gateways, path := c.operator(name, path)
	var resp response
	var err error
	for _, g := range gateways {
		if resp, err = c.post(ctx, c.Process(g).Admin+"/admin/v1"+path, body, c.admin); err == nil {
			break
		}
	}
	return resp.code, string(resp.body), err
}

// operator returns the gateways that may carry a command out, and its path.
func (c *Cluster) operator(name, path string) ([]string, string) {
	kind, _, _ := strings.Cut(name, "-")
	switch kind {
	case "gateway":
		return []string{name}, path
	case "ingester", "compactor":
		sep := "?"
		if strings.Contains(path, "?") {
			sep = "&"
		}
		path += sep + "instance=" + name
	}
	return []string{"gateway-1", "gateway-2"}, path
}

// AdminGet gets from the admin API, as Admin does.
func (c *Cluster) AdminGet(ctx context.Context, name, path string) (string, error) {
	gateways, path := c.operator(name, path)
	var text string
	var err error
	for _, g := range gateways {
		if text, err = c.adminGet(ctx, g, "/admin/v1"+path); err == nil {
			break
		}
	}
	return text, err
}

// Page gets the operator's page of a gateway.
func (c *Cluster) Page(ctx context.Context, gateway string) (string, error) {
	return c.adminGet(ctx, gateway, "/")
}

func (c *Cluster) adminGet(ctx context.Context, name, path string) (string, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, c.Process(name).Admin+path, nil)
	if err != nil {
		return "", err
	}
	req.Header.Set("Authorization", "Bearer "+c.admin)
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(io.LimitReader(resp.Body, 1<<20))
	if err == nil && resp.StatusCode != http.StatusOK {
		err = fmt.Errorf("%s: %d %s", path, resp.StatusCode, body)
	}
	return string(body), err
}

// Verify runs pallium verify over the cluster's stores.
func (c *Cluster) Verify(ctx context.Context, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, c.o.Binaries.Pallium, append([]string{"verify", "-config", c.path("gateway-1.yaml")}, args...)...)
	cmd.Env = append(os.Environ(), "BIGTABLE_EMULATOR_HOST=", "STORAGE_EMULATOR_HOST=")
	out, err := cmd.CombinedOutput()
	return string(out), err
}

// Pallium runs an admin command against the first gateway and returns what it
// prints.
func (c *Cluster) Pallium(ctx context.Context, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, c.o.Binaries.Pallium, append(args, "-admin-url", c.AdminURL)...)
	cmd.Env = append(os.Environ(), "PALLIUM_ADMIN_TOKEN_FILE="+c.o.AdminTokenFile)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		return "", fmt.Errorf("pallium %s: %w: %s", strings.Join(args, " "), err, stderr.String())
	}
	return strings.TrimSpace(string(out)), nil
}

// NewToken makes a tenant, if it is not there, and issues a key for it.
func (c *Cluster) NewToken(ctx context.Context, tenant string, scopes ...string) (string, error) {
	if _, err := c.Pallium(ctx, "tenant", "show", tenant); err != nil {
		if _, err := c.Pallium(ctx, "tenant", "create", tenant); err != nil {
			return "", err
		}
	}
	return c.Pallium(ctx, "token", "issue", "-tenant", tenant, "-scopes", strings.Join(scopes, ","), "-name", "cluster-"+strconv.FormatInt(time.Now().UnixNano(), 36), "-q")
}

// provision makes the tenant and its token.
func (c *Cluster) provision(ctx context.Context) error {
	var err error
	c.Token, err = c.NewToken(ctx, Tenant, "metrics:read", "metrics:write", "metrics:delete")
	return err
}
