package chaos

import (
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
	"unsafe"

	"github.com/palliumhq/pallium/test/kit"
	"github.com/palliumhq/pallium/test/kit/programs"
)

// disk is a directory for data on a disk that can be filled.
type disk struct {
	dir  string
	rows bool // the row store rejects writes too
	fill func(p *programs.Pallium)
	free func(p *programs.Pallium)
}

// boundedFiles simulates a full disk with a limit on the size of files. The row store,
// whose files are smaller, is not affected.
func boundedFiles(t *testing.T) disk {
	t.Helper()
	return disk{dir: t.TempDir(),
		fill: func(p *programs.Pallium) { limitFiles(t, p.Pid(), 64<<10) },
		free: func(p *programs.Pallium) { limitFiles(t, p.Pid(), ^uint64(0)) }}
}

// smallDisk mounts a file system in memory. If mounting is not permitted, it returns boundedFiles.
func smallDisk(t *testing.T) disk {
	t.Helper()
	dir := t.TempDir()
	err := syscall.Mount("tmpfs", dir, "tmpfs", 0, "size=128m")
	if errors.Is(err, syscall.EPERM) || errors.Is(err, syscall.EACCES) {
		return boundedFiles(t)
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := syscall.Unmount(dir, syscall.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	ballast := filepath.Join(dir, "ballast")
	return disk{dir: filepath.Join(dir, "data"), rows: true,
		fill: func(*programs.Pallium) { fillUp(t, ballast) },
		free: func(*programs.Pallium) {
			if err := os.Remove(ballast); err != nil {
				t.Fatal(err)
			}
		}}
}

// fillUp writes a file until the disk is full.
func fillUp(t *testing.T, path string) {
	t.Helper()
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for size := 1 << 20; size > 0; {
		if _, err = f.Write(make([]byte, size)); err != nil {
			size /= 2
		}
	}
	if !errors.Is(err, syscall.ENOSPC) {
		t.Fatalf("the disk is not full: %v", err)
	}
}

// limitFiles limits the size of the files that a process can write.
func limitFiles(t *testing.T, pid int, bytes uint64) {
	t.Helper()
	limit := syscall.Rlimit{Cur: bytes, Max: ^uint64(0)}
	_, _, errno := syscall.RawSyscall6(syscall.SYS_PRLIMIT64, uintptr(pid), uintptr(syscall.RLIMIT_FSIZE), uintptr(unsafe.Pointer(&limit)), 0, 0, 0)
	if errno != 0 && errno != syscall.ESRCH { // the process may have ended
		t.Fatal(errno)
	}
}

// TestFullDisk fills the disk under load and frees it again, twice. It checks that writes and flushes fail
// while the disk is full, that both work again afterwards, and that no acknowledged sample is lost.
func TestFullDisk(t *testing.T) {
	t.Run("small disk", func(t *testing.T) { fullDisk(t, smallDisk(t)) })
	t.Run("bounded files", func(t *testing.T) { fullDisk(t, boundedFiles(t)) })
}

func fullDisk(t *testing.T, d disk) {
	p := programs.StartPalliumIn(t, d.dir, unlimited)
	tenants := newTenants(p, "alpha", "beta")
	senders := newSenders(tenants, 4, 900)
	startLoad(t, p.Edge, senders, 30).wait(false)
	p.Flush()
	for round := range 2 {
		l := startLoad(t, p.Edge, senders, 100000)
		l.waitRequests(t, 100)
		d.fill(p)
		waitRejected(t, l)
		l.wait(true)
		verifyAll(t, "on a full disk", p, tenants)
		flushFails(t, p)
		adminSurvives(t, p, d.rows, fmt.Sprint("late-", round))
		verifyAll(t, "after a flush on a full disk", p, tenants)
		d.free(p)
		works(t, p, senders[0])
		p.Tenant(fmt.Sprint("after-", round))
		startLoad(t, p.Edge, senders, 30).wait(false)
		verifyAll(t, "with free space again", p, tenants)
		if round == 1 {
			p.Flush()
			verifyAll(t, "after a flush with free space again", p, tenants)
		}
	}
	noPanic(t, p)
	p.Kill()
	p.Restart()
	verifyAll(t, "after a full disk and a restart", p, tenants)
	l := startLoad(t, p.Edge, senders, 100000)
	l.waitRequests(t, 50)
	d.fill(p)
	waitRejected(t, l)
	p.Kill()
	l.wait(true)
	d.free(p)
	p.Restart()
	verifyAll(t, "after a kill on a full disk", p, tenants)
}

// waitRejected waits until writes are rejected.
func waitRejected(t *testing.T, l *load) {
	t.Helper()
	kit.Eventually(t, time.Minute, func() error {
		if _, ok := l.answers.Load(http.StatusServiceUnavailable); !ok {
			return errors.New("no write was rejected with status 503")
		}
		return nil
	})
	l.answers.Range(func(code, text any) bool {
		switch code {
		case 0, http.StatusNoContent, http.StatusBadRequest:
		case http.StatusServiceUnavailable:
			if !strings.Contains(text.(string), "send the request again") {
				t.Errorf("text of the 503 response = %q", text)
			}
		default:
			t.Errorf("status of a write = %d: %s", code, text)
		}
		return true
	})
}

// flushFails checks that a flush reports its failure. Either the pack or the entry in the audit log
// cannot be written; without the entry, no admin action is performed.
func flushFails(t *testing.T, p *programs.Pallium) {
	t.Helper()
	code, text := programs.Do(t, http.MethodPost, p.Admin+"/admin/v1/flush?wait=true", p.AdminToken(), "", nil)
	if code/100 != 5 || !strings.Contains(text, "no data is lost") && !strings.Contains(text, "the store is unavailable") {
		t.Errorf("flush on a full disk: %d %s", code, text)
	}
}

// adminSurvives checks that the process survives a change that cannot be stored.
func adminSurvives(t *testing.T, p *programs.Pallium, rejected bool, name string) {
	t.Helper()
	err := p.AdminAPI(http.MethodPost, "/tenants", map[string]any{"name": name}, nil)
	if rejected && (err == nil || !strings.Contains(err.Error(), "503")) {
		t.Errorf("create a tenant on a full disk: %v, want 503", err)
	}
	if rejected { // the process's output arrives a little later
		kit.Eventually(t, time.Minute, func() error {
			if !strings.Contains(p.Log(), "disk is full") {
				return errors.New("the log does not report that the disk is full")
			}
			return nil
		})
	}
	if code, text := programs.Do(t, http.MethodGet, p.Edge+"/-/healthy", "", "", nil); code != http.StatusOK {
		t.Errorf("healthy: %d %s", code, text)
	}
}

// works waits until a write is accepted again.
func works(t *testing.T, p *programs.Pallium, s *sender) {
	t.Helper()
	kit.Eventually(t, time.Minute, func() error {
		a, err := s.send(p.Edge)
		if err == nil && (a.code == 0 || a.code >= 500) {
			err = fmt.Errorf("%d %s", a.code, a.text)
		}
		return err
	})
}

func noPanic(t *testing.T, p *programs.Pallium) {
	t.Helper()
	for _, word := range []string{"panic", "goroutine 1 ["} {
		if strings.Contains(p.Log(), word) {
			t.Errorf("the log contains %q:\n%s", word, p.Log())
		}
	}
}
