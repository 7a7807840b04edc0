package main

import (
	"fmt"
	"runtime"
	"runtime/debug"
	"strings"
)

// version and commit are set by the linker: `make build` takes them from git.
var (
	version = "dev"
	commit  = ""
)

// versionText returns the version in one word.
func versionText() string {
	if info, ok := debug.ReadBuildInfo(); ok && version == "dev" && info.Main.Version != "" && info.Main.Version != "(devel)" {
		return info.Main.Version // of `go install`
	}
	return version
}

// versionReport returns the output of `pallium version`.
func versionReport() string {
	var b strings.Builder
	fmt.Fprintf(&b, "pallium %s\n", versionText())
	if c := commitText(); c != "" {
		fmt.Fprintf(&b, "commit:   %s\n", c)
	}
	fmt.Fprintf(&b, "built by: %s\nplatform: %s/%s\n", runtime.Version(), runtime.GOOS, runtime.GOARCH)
	if v := promqlVersion(); v != "" {
		fmt.Fprintf(&b, "promql:   prometheus %s\n", v)
	}
	return b.String()
}

// promqlVersion returns the version of Prometheus whose engine is built in, if it is known.
func promqlVersion() string {
	if info, ok := debug.ReadBuildInfo(); ok {
		for _, m := range info.Deps {
			if m.Path == "github.com/prometheus/prometheus" {
				return m.Version
			}
		}
	}
	return ""
}

// commitText returns the commit that the binary was built from, if it is known.
func commitText() string {
	if commit != "" {
		return commit
	}
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return ""
	}
	of, dirty := "", ""
	for _, s := range info.Settings {
		switch {
		case s.Key == "vcs.revision":
			of = s.Value
		case s.Key == "vcs.modified" && s.Value == "true":
			dirty = ", with changes"
		}
	}
	if of == "" {
		return ""
	}
	return of + dirty
}
