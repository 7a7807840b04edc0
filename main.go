// Command pallium is the gateway, every backend role and the admin commands in one binary.
// This file handles arguments, environment and signals. The rest of package main is the
// composition root: it reads the configuration, builds every part from the bottom up with
// plain constructors, and starts and stops them in order. It is the only package that
// imports all others and that chooses adapters.
package main

import (
	"context"
	_ "embed"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"

	"github.com/prometheus/alertmanager/featurecontrol"
	"github.com/prometheus/alertmanager/matcher/compat"

	"github.com/palliumhq/pallium/backend/querier"
	"github.com/palliumhq/pallium/backend/switches"
	"github.com/palliumhq/pallium/gateway/cli"
	"github.com/palliumhq/pallium/gateway/cli/alertsctl"
	"github.com/palliumhq/pallium/gateway/cli/command"
	"github.com/palliumhq/pallium/gateway/cli/rulesctl"
)

// builtinRules are recording and alerting rules on the metrics of Pallium itself.
//
//go:embed deploy/prometheus/pallium.rules.yaml
var builtinRules []byte

func main() {
	// As in Alertmanager: matchers are parsed as UTF-8 matchers first, and as classic ones if that fails.
	compat.InitFromFlags(slog.New(slog.DiscardHandler), featurecontrol.NoopFlags{})
	os.Exit(runCommand(os.Args[1:], os.Stdin, os.Stdout, os.Stderr))
}

// table returns all commands of the binary.
func table() *command.Table {
	t := &command.Table{Program: "pallium", Default: string(All), Notes: "Roles of a backend (-target):\n" + roleUsage()}
	t.Groups = append(t.Groups, command.Group{Title: "Servers", Commands: []command.Command{
		server(All, "gateway and backend in one process, with embedded storage (default)"),
		server(Gateway, "the authenticating gateway alone, in front of another backend"),
		server(Backend, "roles of a cluster's backend: -target=ROLE,... or all"),
	}})
	for _, g := range cli.Groups() {
		for i := range g.Commands {
			g.Commands[i] = interrupted(g.Commands[i])
		}
		t.Groups = append(t.Groups, g)
	}
	everything := switches.Set{ExperimentalFunctions: true, BinopFillModifiers: true, UnquotedUTF8Names: true}
	ofRules := rulesctl.Group(querier.NewParser(everything.Parser(), querier.MaxOperators), builtinRules)
	for _, g := range []command.Group{ofRules, alertsctl.Group(time.Now)} {
		for i := range g.Commands {
			g.Commands[i] = interrupted(g.Commands[i])
		}
		t.Groups = append(t.Groups, g)
	}
	t.Groups = append(t.Groups,
		command.Group{Title: "Stores (opened directly: stop a server that uses embedded ones first)", Commands: maintenanceCommands()},
		command.Group{Title: "Other", Commands: append(configCommands(),
			command.Command{Name: "version", About: "print version, commit and build",
				Setup: func(*flag.FlagSet) command.Action { return printVersion }},
			command.Completion("pallium"),
			command.Command{Name: "help", Args: "[COMMAND]", About: "print this text, or the flags of a command", Max: -1,
				Setup: func(*flag.FlagSet) command.Action { return nil }})})
	return t
}

// runCommand runs a command line and returns the exit code.
func runCommand(args []string, stdin io.Reader, stdout, stderr io.Writer) int {
	return table().Run(context.Background(), args, command.Shell{In: stdin, Out: stdout, Err: stderr, Env: os.Getenv})
}

// interrupted returns the command with a context that ends with SIGTERM or an interrupt.
func interrupted(c command.Command) command.Command {
	setup := c.Setup
	c.Setup = func(fs *flag.FlagSet) command.Action {
		act := setup(fs)
		return func(_ context.Context, sh *command.Shell, args []string) error {
			ctx, stop := interruptible()
			defer stop()
			return act(ctx, sh, args)
		}
	}
	return c
}

func printVersion(_ context.Context, sh *command.Shell, _ []string) error {
	_, err := fmt.Fprint(sh.Out, versionReport())
	return err
}

// serverFlags are the flags of a server.
type serverFlags struct {
	config, dataDir, listen, adminListen string
	target, internalListen, rpcListen    string // of a backend
}

// server returns the command that runs a role.
func server(role Role, about string) command.Command {
	return command.Command{Name: string(role), About: about, Setup: func(fs *flag.FlagSet) command.Action {
		var f serverFlags
		fs.StringVar(&f.config, "config", "", "configuration `file` (YAML)")
		fs.StringVar(&f.dataDir, "data-dir", "", "`directory` for data (default ./data)")
		fs.StringVar(&f.listen, "listen", "", "`address` of the edge (default :9009)")
		fs.StringVar(&f.adminListen, "admin-listen", "", "`address` of the admin API and operator pages (default 127.0.0.1:9010)")
		if role == Backend {
			fs.StringVar(&f.target, "target", "all", "`roles`, separated by commas: "+roleNames()+", or all")
			fs.StringVar(&f.internalListen, "internal-listen", "", "`address` for gateways (default :9011)")
			fs.StringVar(&f.rpcListen, "rpc-listen", "", "`address` for other backend processes (default :9012)")
		}
		return func(_ context.Context, sh *command.Shell, _ []string) error { return serve(role, &f, sh.Err) }
	}}
}

// serve runs a server until SIGTERM or an interrupt.
func serve(role Role, flags *serverFlags, stderr io.Writer) error {
	ownerOnly()
	var targets Targets
	if role == Backend {
		var err error
		if targets, err = ParseTargets(flags.target); err != nil {
			return command.Misused("%s", err)
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
		return command.Invalid(err)
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
		logger.Error("received a second signal to stop: exiting at once; nothing acknowledged is lost, "+
			"an ingester replays its write-ahead log at the next start", "signal", s.String())
		return command.ErrReported
	}
	if errors.Is(err, ErrStopTimeout) { // already logged
		return command.ErrReported
	}
	return err
}

// ownerOnly sets the umask so that all files of this process, including those of libraries, are
// accessible by the owner only: the data directory contains all tenants' samples and the pepper of
// API keys.
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
		o.Logger.Info("stopped during the start; nothing is lost: "+
			"an ingester replays its write-ahead log from the beginning at the next start", "err", err)
		return nil
	}
	return err
}

// sameSignal is the time for which further signals to stop are ignored: a process that runs under
// make gets a signal to the process group twice.
const sameSignal = 500 * time.Millisecond

// stopSignals returns a context that ends with the first SIGTERM or interrupt, and a channel that
// receives the first signal that comes at least sameSignal later.
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

// configuration reads the file, applies the flags, checks the result, and makes its paths absolute.
func configuration(path string, flags func(*Config)) (Config, error) {
	cfg, err := LoadConfig(path, os.LookupEnv)
	if err != nil {
		return cfg, err
	}
	flags(&cfg)
	if err := errors.Join(cfg.Check(), cfg.Resolve()); err != nil {
		return cfg, inFile(path, err)
	}
	return cfg, nil
}

func override(value *string, flag string) {
	if flag != "" {
		*value = flag
	}
}

// reloadOnHangup calls reload on each signal until the returned function is called, and logs
// what was reloaded.
func reloadOnHangup(reload func() ([]string, error), hangup chan os.Signal, logger *slog.Logger) func() {
	done := make(chan struct{})
	go func() {
		defer close(done)
		for range hangup {
			reloaded, err := reload()
			switch {
			case err != nil:
				logger.Error("reload failed: the previous versions stay in use", "reloaded", strings.Join(reloaded, ", "), "err", err)
			case len(reloaded) == 0:
				logger.Info("nothing to reload: this process has no key sets of issuers and no certificate of the edge; " +
					"other settings are read at the start only")
			default:
				logger.Info("reload complete", "reloaded", strings.Join(reloaded, ", "))
			}
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
