package model

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/palliumhq/pallium/test/kit/programs"
)

// single is one process.
type single struct {
	p   *programs.Pallium
	t   *testing.T
	dir string // holds .pid files; guard (guard_test.go) kills those processes if the test is killed
}

// newSingle starts a process that ends with the test, however the test ends.
func newSingle(t *testing.T) *single {
	t.Helper()
	s := &single{t: t, dir: t.TempDir()}
	guard(t, s.dir)
	s.p = programs.StartPallium(t, "self_monitoring: {interval: 1s}\n")
	noteProcess(t, s.dir, s.p.Pid())
	return s
}

func (s *single) restart() {
	s.t.Helper()
	s.p.Begin()
	noteProcess(s.t, s.dir, s.p.Pid())
	s.p.WaitReady(s.p.Edge + "/ready")
}

func (s *single) edges() []string { return []string{s.p.Edge} }

func (s *single) command(args ...string) (string, error) { return s.p.CLI(args...) }

func (s *single) flush(ctx context.Context) error { return s.admin(ctx, "flush") }

func (s *single) compact(ctx context.Context) error { return s.admin(ctx, "compact") }

func (s *single) admin(ctx context.Context, action string) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, s.p.Admin+"/admin/v1/"+action+"?wait=true", nil)
	if err != nil {
		return err
	}
	req.Header.Set("Authorization", "Bearer "+s.p.AdminToken())
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err == nil && resp.StatusCode != http.StatusOK {
		err = fmt.Errorf("%s: %d %s", action, resp.StatusCode, body)
	}
	return err
}

// TestSingle compares one process with the model, for half a minute or for the
// duration in MODEL.
func TestSingle(t *testing.T) {
	s := newSingle(t)
	r := newRun(t, s, slacks{clock: 2 * time.Second}, false)
	r.play(duration(t, 30*time.Second), append(common(),
		operation{"kill", 4, func(r *run) { s.end(r, syscall.SIGKILL) }},
		operation{"from the store", 4, func(r *run) {
			r.fromStore(func() {
				s.p.Stop()
				s.p.DropUploaded()
				s.restart()
			})
		}},
		operation{"terminate", 2, func(r *run) { s.end(r, syscall.SIGTERM) }}))
}

// end ends the process while samples are pushed, half of the time also while it flushes
// and compacts. Sometimes the process starts again without the local packs that are in the
// long-term store.
func (s *single) end(r *run, sig syscall.Signal) {
	r.faulty.Store(true)
	ctx, cancel := context.WithCancel(context.Background())
	var busy sync.WaitGroup
	if r.gen.chance(2) {
		busy.Go(func() {
			_ = s.flush(ctx) // the process may have ended
			_ = s.compact(ctx)
		})
	}
	pause, dropped := time.Duration(r.gen.rnd.Intn(100))*time.Millisecond, r.gen.chance(3)
	busy.Go(func() {
		for ctx.Err() == nil && r.push(ctx, r.tenant()) {
		}
	})
	time.Sleep(pause) // the process ends at a random time
	if sig == syscall.SIGTERM {
		s.p.Stop()
	} else {
		s.p.Kill()
	}
	cancel()
	busy.Wait()
	if dropped {
		s.p.DropUploaded()
	}
	s.restart()
	r.faulty.Store(false)
}
