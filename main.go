// Command pallium is the gateway, every backend role and the admin commands in one binary.
// This file handles arguments, environment and signals. The rest of package main is the
// composition root: it reads the configuration, builds every part from the bottom up with
// plain constructors, and starts and stops them in order. It is the only package that
// imports all others and that chooses adapters.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"runtime/debug"
	"strings"
	"syscall"
	"time"

	"github.com/palliumhq/pallium/authn/tenant"
	"github.com/palliumhq/pallium/gateway/cli"
)

// version is set by the linker in releases.
var version = "dev"

func main() { os.Exit(runCommand(os.Args[1:], os.Stdout, os.Stderr)) }

// usage returns the text of `pallium help`.
func usage() string { return usageHead + roleUsage() + usageFoot }

const usageHead = `Usage: pallium [COMMAND] [FLAGS]

Servers:
  all        gateway and backend in one process, embedded storage (default)
  gateway    the authenticating gateway alone, in front of another backend
  backend    roles of a cluster's backend: -target=ROLE,... or all

Administration (talks to a running Pallium's admin API):
  tenant     create, list, show and delete tenants
  token      issue, list, rotate and revoke API keys
  policy     access policies
  limits     limits and plans

Stores (opens the stores themselves; embedded ones must not be in use):
  migrate    up, status: bring tables and layout to this version
  verify     check the long-term store; -rebuild-index makes its index again

  config     check FILE: is it a configuration? show: the one in effect, with defaults
  version    print the version
  help       print this

Roles of a backend (-target):
`

const usageFoot = `
Run 'pallium COMMAND -h' for the flags of a command.
`

// runCommand runs a command line and returns the exit code.
func runCommand(args []string, stdout, stderr io.Writer) int {
	command := "all"
	if len(args) > 0 && !strings.HasPrefix(args[0], "-") {
		command, args = args[0], args[1:]
	}
	switch command {
	case "all", "gateway", "backend":
		return serve(Role(command), args, stderr)
	case "tenant", "token", "policy", "limits":
		ctx, stop := interruptible()
		defer stop()
		return cli.Run(ctx, append([]string{command}, args...), os.Getenv, stdout, stderr)
	case "migrate", "verify":
		return maintain(command, args, stdout, stderr)
	case "config":
		return configCommand(args, stdout, stderr)
	case "version":
		fmt.Fprintln(stdout, "pallium", versionText())
		return 0
	case "help":
		fmt.Fprint(stdout, usage())
		return 0
	}
	fmt.Fprintf(stderr, "pallium: there is no command %q\n\n%s", command, usage())
	return 2
}

// versionText returns the version set by the linker, or else the module version of the build.
func versionText() string {
	if info, ok := debug.ReadBuildInfo(); ok && version == "dev" && info.Main.Version != "" && info.Main.Version != "(devel)" {
		return info.Main.Version
	}
	return version
}

// serverFlags are the flags of a server.
type serverFlags struct {
	config, dataDir, listen, adminListen string
	target, internalListen, rpcListen    string // of a backend
}

// errUsage is returned for an invalid command line after its error was printed.
var errUsage = errors.New("wrong usage")

// parseServerFlags parses the arguments of a server. It prints errors to stderr.
func parseServerFlags(role Role, args []string, stderr io.Writer) (f serverFlags, _ error) {
	fs := flag.NewFlagSet("pallium "+string(role), flag.ContinueOnError)
	fs.SetOutput(stderr)
	fs.StringVar(&f.config, "config", "", "configuration `file` (YAML)")
	fs.StringVar(&f.dataDir, "data-dir", "", "`directory` for data (default ./data)")
	fs.StringVar(&f.listen, "listen", "", "`address` of the edge (default :9009)")
	fs.StringVar(&f.adminListen, "admin-listen", "", "`address` of the admin API and operator pages (default 127.0.0.1:9010)")
	if role == Backend {
		fs.StringVar(&f.target, "target", "all", "`roles`, separated by commas: "+roleNames()+", or all")
		fs.StringVar(&f.internalListen, "internal-listen", "", "`address` for gateways (default :9011)")
		fs.StringVar(&f.rpcListen, "rpc-listen", "", "`address` for other backend processes (default :9012)")
	}
	if err := fs.Parse(args); err != nil {
		if errors.Is(err, flag.ErrHelp) {
			return f, err
		}
		return f, errUsage
	}
	if fs.NArg() > 0 {
		fmt.Fprintf(stderr, "pallium %s: argument %q is not understood\n", role, fs.Arg(0))
		return f, errUsage
	}
	return f, nil
}

// serve runs a server until SIGTERM or an interrupt.
func serve(role Role, args []string, stderr io.Writer) int {
	ownerOnly()
	flags, err := parseServerFlags(role, args, stderr)
	switch {
	case errors.Is(err, flag.ErrHelp):
		return 0
	case err != nil:
		return 2
	}
	var targets Targets
	if role == Backend {
		if targets, err = ParseTargets(flags.target); err != nil {
			fmt.Fprintln(stderr, "pallium:", err)
			return 2
		}
	}
	cfg, err := configuration(flags.config, func(c *Config) {
		override(&c.DataDir, flags.dataDir)
		override(&c.Listen, flags.listen)
		override(&c.AdminListen, flags.adminListen)
		override(&c.InternalListen, flags.internalListen)
		override(&c.RPCListen, flags.rpcListen)
	})
	if err != nil {
		fmt.Fprintln(stderr, "pallium:", err)
		return 2
	}
	logger := newLogger(cfg.Log, stderr)
	ctx, second, stop := stopSignals()
	defer stop()
	ended := make(chan error, 1)
	go func() {
		ended <- runServer(ctx, cfg, Options{Role: role, Targets: targets, Version: versionText(), Env: os.LookupEnv, Logger: logger, Now: now()})
	}()
	select {
	case err = <-ended:
	case s := <-second:
		logger.Error("second signal to stop: the process ends at once; nothing acknowledged is lost, the next start replays the write-ahead log",
			"signal", s.String())
		return 1
	}
	switch {
	case errors.Is(err, ErrStopTimeout): // already logged
		return 1
	case err != nil:
		fmt.Fprintln(stderr, "pallium:", err)
		return 1
	}
	return 0
}

// ownerOnly sets the umask so that all files of this process, including those of libraries,
// are accessible by the owner only: the data directory has all tenants' samples and the
// pepper of API keys.
func ownerOnly() { syscall.Umask(0o077) }

// runServer builds a server and runs it until ctx is done.
func runServer(ctx context.Context, cfg Config, o Options) error {
	hangup := make(chan os.Signal, 1)
	signal.Notify(hangup, syscall.SIGHUP) // before the start, because an unhandled SIGHUP would end the process
	p, err := open(ctx, cfg, o)
	if err == nil {
		defer reloadOnHangup(p.reload, hangup, o.Logger)()
		err = p.run(ctx, nil)
	}
	if errors.Is(err, ErrNotStarted) {
		o.Logger.Info("stopped during the start; nothing is lost: the next start replays the write-ahead log from its beginning", "err", err)
		return nil
	}
	return err
}

// sameSignal is the time in which a further signal to stop counts as the first one: a process
// that runs under make gets a signal to the process group twice.
const sameSignal = 500 * time.Millisecond

// stopSignals returns a context that ends with the first SIGTERM or interrupt, and a channel
// that receives the second.
func stopSignals() (ctx context.Context, second <-chan os.Signal, stop func()) {
	ctx, cancel := context.WithCancel(context.Background())
	signals, again, done := make(chan os.Signal, 2), make(chan os.Signal, 1), make(chan struct{})
	signal.Notify(signals, os.Interrupt, syscall.SIGTERM)
	go func() {
		var first time.Time
		for {
			select {
			case s := <-signals:
				switch {
				case first.IsZero():
					first = time.Now()
					cancel()
				case time.Since(first) >= sameSignal:
					again <- s
					return
				}
			case <-done:
				return
			}
		}
	}()
	return ctx, again, func() {
		signal.Stop(signals)
		close(done)
		cancel()
	}
}

// interruptible returns a context that ends with the first SIGTERM or interrupt. The second
// one ends the process.
func interruptible() (context.Context, context.CancelFunc) {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	context.AfterFunc(ctx, stop)
	return ctx, stop
}

// configuration reads the file, applies the flags, and checks the result.
func configuration(path string, flags func(*Config)) (Config, error) {
	cfg, err := LoadConfig(path, os.LookupEnv)
	if err != nil {
		return cfg, err
	}
	flags(&cfg)
	if err := errors.Join(cfg.Check(), cfg.Resolve()); err != nil {
		return cfg, fmt.Errorf("configuration: %w", err)
	}
	return cfg, nil
}

// maintain runs the commands that open the stores directly.
func maintain(command string, args []string, stdout, stderr io.Writer) int {
	ownerOnly()
	action := ""
	if command == "migrate" {
		if len(args) == 0 || args[0] != "up" && args[0] != "status" {
			fmt.Fprintln(stderr, "Usage: pallium migrate up|status [FLAGS]")
			return 2
		}
		action, args = args[0], args[1:]
	}
	fs := flag.NewFlagSet("pallium "+command, flag.ContinueOnError)
	fs.SetOutput(stderr)
	config := fs.String("config", "", "configuration `file` (YAML)")
	dataDir := fs.String("data-dir", "", "`directory` for data (default ./data)")
	var v VerifyOptions
	if command == "verify" {
		fs.BoolVar(&v.Data, "data", false, "read and decode every pack, not only their ends")
		fs.BoolVar(&v.Rebuild, "rebuild-index", false, "first write the index again from the packs")
		fs.Func("tenant", "check this `tenant` only; may be repeated", func(s string) error {
			id, err := tenant.ParseID(s)
			v.Tenants = append(v.Tenants, id)
			return err
		})
	}
	if err := fs.Parse(args); err != nil {
		if errors.Is(err, flag.ErrHelp) {
			return 0
		}
		return 2
	}
	if fs.NArg() > 0 {
		fmt.Fprintf(stderr, "pallium %s: argument %q is not understood\n", command, fs.Arg(0))
		return 2
	}
	cfg, err := configuration(*config, func(c *Config) { override(&c.DataDir, *dataDir) })
	if err != nil {
		fmt.Fprintln(stderr, "pallium:", err)
		return 2
	}
	ctx, stop := interruptible()
	defer stop()
	o := Options{Version: versionText(), Logger: newLogger(cfg.Log, stderr)}
	if command == "migrate" {
		err = Migrate(ctx, cfg, o, action == "status", stdout)
	} else {
		err = Verify(ctx, cfg, o, v, stdout)
	}
	if err != nil {
		fmt.Fprintln(stderr, "pallium:", err)
		return 1
	}
	return 0
}

func override(value *string, flag string) {
	if flag != "" {
		*value = flag
	}
}

// reloadOnHangup calls reload on each signal until the returned function is called.
func reloadOnHangup(reload func() error, hangup chan os.Signal, logger *slog.Logger) func() {
	done := make(chan struct{})
	go func() {
		defer close(done)
		for range hangup {
			if err := reload(); err != nil {
				logger.Error("reload failed, what was loaded before stays in use", "err", err)
				continue
			}
			logger.Info("reloaded")
		}
	}()
	return func() {
		signal.Stop(hangup)
		close(hangup)
		<-done
	}
}

func newLogger(c Log, w io.Writer) *slog.Logger {
	var level slog.Level
	_ = level.UnmarshalText([]byte(c.Level)) // checked with the configuration
	o := &slog.HandlerOptions{Level: level}
	if c.Format == "json" {
		return slog.New(slog.NewJSONHandler(w, o))
	}
	return slog.New(slog.NewTextHandler(w, o))
}
