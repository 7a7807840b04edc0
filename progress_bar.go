package main

import (
	"fmt"
	"io"
	"os"
	"time"

	"github.com/schollz/progressbar/v3"
	"golang.org/x/term"

	"github.com/palliumhq/pallium/backend/store/fsck"
)

// lineEvery is the minimum time between two lines of progress if the output is not a terminal.
const lineEvery = 10 * time.Second

// progressBar shows the progress of long work: a bar on a terminal, elsewhere at most
// one line per lineEvery. nil shows nothing.
type progressBar struct {
	out      io.Writer
	terminal bool
	now      func() time.Time
	bar      *progressbar.ProgressBar
	last     time.Time
}

func newProgressBar(out io.Writer, now func() time.Time) *progressBar {
	f, ok := out.(*os.File)
	return &progressBar{out: out, terminal: ok && term.IsTerminal(int(f.Fd())), now: now}
}

// barSteps is the resolution of the bar.
const barSteps = 1000

// of starts to show the progress of the work with the name.
func (p *progressBar) of(name string) fsck.Progress {
	if p == nil {
		return nil
	}
	if p.terminal {
		p.bar = progressbar.NewOptions(barSteps, progressbar.OptionSetWriter(p.out), progressbar.OptionSetDescription(name),
			progressbar.OptionClearOnFinish(), progressbar.OptionSetPredictTime(true), progressbar.OptionSetElapsedTime(true))
	}
	p.last = p.now()
	return func(done float64, next string) { p.show(name, done, next) }
}

func (p *progressBar) show(name string, done float64, next string) {
	if p.bar != nil {
		p.bar.Describe(name + ": " + next)
		_ = p.bar.Set(int(done * barSteps)) // a bar that cannot be drawn is no reason to stop
		return
	}
	if now := p.now(); now.Sub(p.last) >= lineEvery {
		p.last = now
		fmt.Fprintf(p.out, "%s: %.0f%%, %s\n", name, done*100, next)
	}
}

// end removes the bar.
func (p *progressBar) end() {
	if p != nil && p.bar != nil {
		_ = p.bar.Finish() // see show
		p.bar = nil
	}
}
