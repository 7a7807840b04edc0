package chaos

import (
	"fmt"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/palliumhq/pallium/test/kit"
	"github.com/palliumhq/pallium/test/kit/programs"
)

// TestFirstLabels damages each of the first records of a log in turn: only the samples
// of the damaged record may be lost.
func TestFirstLabels(t *testing.T) {
	dir := t.TempDir()
	p := programs.StartPalliumIn(t, dir, unlimited)
	tenants := newTenants(p, "alpha")
	startLoad(t, p.Edge, newSenders(tenants, 1, 600), 20).wait(false)
	waitCheckpoint(t, p)
	p.Kill()
	before, _ := readLog(t, dir)
	first, _ := segmentFiles(t, filepath.Join(dir, "ingester", "wal"))
	n := 0
	for i, r := range before {
		if r.tenant != "alpha" {
			continue
		}
		if n++; n > 4 {
			break
		}
		copied := copyData(t, dir)
		edit(first, flip(i, frameHeader+len(r.raw)/2))(t, filepath.Join(copied, "ingester", "wal"))
		after, _ := readLog(t, copied)
		if len(after) != len(before)-1 {
			t.Fatalf("after damage to record %d the log has %d of %d records", i, len(after), len(before))
		}
		p := programs.StartPalliumIn(t, copied, unlimited)
		tenants[0].ledger.verify(t, fmt.Sprint("damage to record ", n), mustReadAll(t, p, tenants[0].token), lostSamples(before, after))
		p.Kill()
	}
}

// TestSealFiles checks that no sample is lost if the list of seals is missing or damaged, or if a file was
// written only in part.
func TestSealFiles(t *testing.T) {
	dir, tenants := sealedData(t, 700)
	sealed := filepath.Join("ingester", "sealed.json")
	t.Run("sealed.json missing", func(t *testing.T) {
		copied := copyData(t, dir)
		if err := os.Remove(filepath.Join(copied, sealed)); err != nil {
			t.Fatal(err)
		}
		p := programs.StartPalliumIn(t, copied, unlimited)
		verifyAll(t, "without sealed.json", p, tenants)
	})
	for _, garbage := range []string{"", "{", `{"a":1}`, "\x00\x00\x00\x00"} {
		t.Run(fmt.Sprintf("sealed.json is %q", garbage), func(t *testing.T) {
			copied := copyData(t, dir)
			writeFile(t, filepath.Join(copied, sealed), []byte(garbage))
			p := programs.StartPalliumIn(t, copied, unlimited)
			verifyAll(t, "with a damaged sealed.json", p, tenants)
			if !strings.Contains(p.Log(), "removed the damaged list of seals") {
				t.Errorf("the log does not report the damaged list of seals:\n%s", p.Log())
			}
		})
	}
	t.Run("half-written files", func(t *testing.T) {
		copied := copyData(t, dir)
		pk := packs(t, copied)[0]
		half := filepath.Join(filepath.Dir(pk), "ingester-1-01ARZ3NDEKTSV4RRFFQ69G5FAV.pk.tmp")
		writeFile(t, half, readFile(t, pk)[:1000])
		writeFile(t, filepath.Join(copied, sealed+".tmp"), []byte("["))
		p := programs.StartPalliumIn(t, copied, unlimited)
		verifyAll(t, "with a half-written pack", p, tenants)
		if _, err := os.Stat(half); err == nil {
			t.Errorf("%s was not removed", half)
		}
	})
}

// TestPackDamage damages a pack in several ways. A start with a truncated pack fails and
// names the file. With other damage, the start may fail or queries may fail, but a
// successful response is never shorter than it should be.
func TestPackDamage(t *testing.T) {
	dir, tenants := sealedData(t, 800)
	pk, err := filepath.Rel(dir, packs(t, dir)[0])
	if err != nil {
		t.Fatal(err)
	}
	n := len(readFile(t, filepath.Join(dir, pk)))
	changes := map[string]func([]byte) []byte{}
	for _, cut := range []int{0, 1, 100, n / 2, n - 1} {
		changes[fmt.Sprint("cut to ", cut)] = func(b []byte) []byte { return b[:cut] }
	}
	for i := range 12 {
		at := i * (n - 1) / 11
		changes[fmt.Sprint("bit flipped at ", at)] = func(b []byte) []byte { b[at] ^= 8; return b }
	}
	changes["zeroed page"] = zero(n/3, 512)
	changes["longer"] = func(b []byte) []byte { return append(b, "more"...) }
	for name, change := range changes {
		t.Run(name, func(t *testing.T) {
			copied := copyData(t, dir)
			path := filepath.Join(copied, pk)
			writeFile(t, path, change(readFile(t, path)))
			if strings.HasPrefix(name, "cut") {
				rejected(t, copied, filepath.Base(pk))
				return
			}
			neverShorter(t, copied, filepath.Base(pk), tenants)
		})
	}
}

// neverShorter starts a server on the data. The server may fail to start and name the
// damaged file, or fail reads, or return everything.
func neverShorter(t *testing.T, dir, file string, tenants []*tenantUnderTest) {
	t.Helper()
	edge := kit.FreeAddr(t)
	p := programs.Start(t, programs.Binary(t, "PALLIUM"), "all", "-data-dir", dir, "-listen", edge, "-admin-listen", kit.FreeAddr(t))
	ended := make(chan error, 1)
	go func() { ended <- p.Wait(5 * time.Minute) }()
	for deadline := time.Now().Add(2 * time.Minute); !strings.Contains(p.Log(), "msg=serving"); time.Sleep(20 * time.Millisecond) {
		select {
		case <-ended:
			if !strings.Contains(p.Log(), file) {
				t.Errorf("the start failed without naming %s:\n%s", file, p.Log())
			}
			t.Log("the start failed")
			return
		default:
		}
		if time.Now().After(deadline) {
			t.Fatalf("the process is neither ready nor ended:\n%s", p.Log())
		}
	}
	running := &programs.Pallium{Edge: "http://" + edge}
	for _, tn := range tenants {
		got, err := readAll(running, tn.token)
		if err != nil {
			t.Logf("tenant %s: %v", tn.id, err)
			continue
		}
		tn.ledger.verify(t, "a read that succeeded", got, nil)
	}
}

// sealedData creates a data directory with packs, and with newer samples in the log.
func sealedData(t *testing.T, seed int64) (string, []*tenantUnderTest) {
	t.Helper()
	dir := t.TempDir()
	p := programs.StartPalliumIn(t, dir, unlimited)
	tenants := newTenants(p, "alpha", "beta")
	senders := newSenders(tenants, 2, seed)
	startLoad(t, p.Edge, senders, 15).wait(false)
	p.Flush()
	startLoad(t, p.Edge, senders, 15).wait(false)
	p.Kill()
	return dir, tenants
}

func copyData(t *testing.T, dir string) string {
	t.Helper()
	copied := filepath.Join(t.TempDir(), "data")
	if err := os.CopyFS(copied, os.DirFS(dir)); err != nil {
		t.Fatal(err)
	}
	restrict(t, copied)
	return copied
}

// packs returns the packs in a data directory.
func packs(t *testing.T, dir string) []string {
	t.Helper()
	var out []string
	err := filepath.WalkDir(filepath.Join(dir, "ingester", "l0"), func(path string, d fs.DirEntry, err error) error {
		if err == nil && strings.HasSuffix(path, ".pk") {
			out = append(out, path)
		}
		return err
	})
	if err != nil || len(out) == 0 {
		t.Fatalf("packs below %s: %v, %v", dir, out, err)
	}
	return out
}

// rejected starts a server whose start must fail, with an error that contains these
// words.
func rejected(t *testing.T, dir string, words ...string) {
	t.Helper()
	code, out := programs.RunPallium(t, time.Minute, nil, "all", "-data-dir", dir, "-listen", kit.FreeAddr(t), "-admin-listen", kit.FreeAddr(t))
	if code != 1 {
		t.Errorf("exit code = %d, want 1", code)
	}
	for _, word := range words {
		if !strings.Contains(out, word) {
			t.Errorf("the output does not contain %q:\n%s", word, out)
		}
	}
}

// TestLostLabels damages the first record of a log before its labels are in the log twice. Queries
// of the tenant for the time of the record report that samples were lost, even after a seal and a
// restart, until the operator accepts the loss. Queries of other tenants succeed.
func TestLostLabels(t *testing.T) {
	dir := t.TempDir()
	p := programs.StartPalliumIn(t, dir, unlimited)
	tenants := newTenants(p, "hurt", "other")
	startLoad(t, p.Edge, newSenders(tenants[:1], 1, 600), 5).wait(false)
	p.Kill()
	records, _ := readLog(t, dir)
	first, _ := segmentFiles(t, filepath.Join(dir, "ingester", "wal"))
	damaged := false
	for i, r := range records {
		if r.tenant == "hurt" && len(r.labels) > 0 {
			edit(first, flip(i, frameHeader+len(r.raw)/2))(t, filepath.Join(dir, "ingester", "wal"))
			damaged = true
			break
		}
	}
	if !damaged {
		t.Fatal("the log has no labels of the tenant")
	}
	p.Restart()
	startLoad(t, p.Edge, newSenders(tenants[1:], 1, 20), 2).wait(false)
	query := func(tn *tenantUnderTest) (int, string) {
		return programs.Do(t, http.MethodGet, p.Edge+"/prometheus/api/v1/query?query=count(count_over_time(%7B__name__%3D~%22chaos.*%22%7D%5B2h%5D))", tn.token, "", nil)
	}
	check := func(when string) {
		t.Helper()
		if code, body := query(tenants[0]); code != http.StatusServiceUnavailable || !strings.Contains(body, "pallium loss accept") {
			t.Errorf("%s: %d %s", when, code, body)
		}
		if code, body := query(tenants[1]); code != http.StatusOK {
			t.Errorf("%s: another tenant: %d %s", when, code, body)
		}
	}
	check("after the damage")
	p.Flush()
	check("after a flush")
	p.Kill()
	p.Restart()
	check("after a restart")
	day := time.Now().Unix() / 86400
	_, losses := programs.Do(t, http.MethodGet, p.Admin+"/admin/v1/losses", p.AdminToken(), "", nil)
	accepted := 0
	for _, d := range []int64{day - 1, day} { // samples may be from the day before
		want := http.StatusNotFound
		if strings.Contains(losses, fmt.Sprintf(`"tenant":"hurt","day":%d,`, d)) {
			want = http.StatusOK
			accepted++
		}
		if code, body := programs.Do(t, http.MethodPost, fmt.Sprintf("%s/admin/v1/compact/accept-loss?day=%d", p.Admin, d), p.AdminToken(), "", nil); code != want {
			t.Fatalf("accept the loss: %d %s, want %d; the losses are %s", code, body, want, losses)
		}
	}
	if accepted == 0 {
		t.Errorf("the loss is not listed: %s", losses)
	}
	if code, body := query(tenants[0]); code != http.StatusOK {
		t.Errorf("after the loss was accepted: %d %s", code, body)
	}
}
