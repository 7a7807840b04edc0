package chaos

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"math/rand"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/palliumhq/pallium/test/kit/programs"
)

// Sizes of headers; see docs/format/wal.md.
const (
	segmentHeader = 28
	frameHeader   = 13
)

// waitCheckpoint waits until the log contains all labels twice: before that, damage may
// destroy more than the damaged record.
func waitCheckpoint(t *testing.T, p *programs.Pallium) {
	t.Helper()
	for deadline := time.Now().Add(2 * time.Minute); ; time.Sleep(100 * time.Millisecond) {
		if p.Metric("pallium_ingester_wal_series_awaiting_checkpoint") == 0 {
			return
		}
		if time.Now().After(deadline) {
			t.Fatal("some labels are still in the log only once")
		}
	}
}

// damage changes the files of a write-ahead log. The server's log must contain the text `says`;
// "" means no particular text.
type damage struct {
	name string
	says string
	do   func(t *testing.T, dir string)
}

// TestLogDamage damages the write-ahead log between a kill and a restart: samples in
// other records, and in packs, must not be lost.
func TestLogDamage(t *testing.T) {
	dir := t.TempDir()
	p := programs.StartPalliumIn(t, dir, unlimited)
	tenants := newTenants(p, "alpha", "beta")
	senders := newSenders(tenants, 2, 500)
	startLoad(t, p.Edge, senders, 10).wait(false)
	p.Flush() // earlier samples are in packs
	sealed := map[string]map[sampleKey]bool{}
	for _, tn := range tenants {
		sealed[tn.id] = tn.ledger.ackedKeys()
	}
	startLoad(t, p.Edge, senders, 12).wait(false)
	waitCheckpoint(t, p)
	p.Kill()
	p.Restart()
	startLoad(t, p.Edge, senders, 12).wait(false)
	waitCheckpoint(t, p)
	p.Kill()
	before, report := readLog(t, dir)
	if len(before) < 30 || report.Segments < 2 {
		t.Fatalf("the log has %d records in %d segments, too few for this test", len(before), report.Segments)
	}
	for _, d := range damages(t, dir) {
		t.Run(d.name, func(t *testing.T) {
			copied := copyData(t, dir)
			d.do(t, filepath.Join(copied, "ingester", "wal"))
			after, _ := readLog(t, copied)
			lost := lostSamples(before, after)
			p := programs.StartPalliumIn(t, copied, unlimited)
			for range 2 { // the second start also reads data that the first one appended
				for _, tn := range tenants {
					excused := map[sampleKey]bool{}
					for key := range lost {
						excused[key] = !sealed[tn.id][key]
					}
					tn.ledger.verify(t, d.name, mustReadAll(t, p, tn.token), excused)
				}
				if !strings.Contains(p.Log(), d.says) {
					t.Errorf("the server's log has no %q:\n%s", d.says, p.Log())
				}
				p.Kill()
				p.Restart()
			}
			t.Logf("%d of %d records lost, %d samples", len(before)-len(after), len(before), len(lost))
		})
	}
}

// restrict restores the mode of secret files, which os.CopyFS does not preserve.
func restrict(t *testing.T, dir string) {
	t.Helper()
	for _, name := range []string{"admin-token", "key-pepper"} {
		if err := os.Chmod(filepath.Join(dir, name), 0o600); err != nil {
			t.Fatal(err)
		}
	}
}

// damages returns the ways to damage the log in dir.
func damages(t *testing.T, dir string) []damage {
	rnd := rand.New(rand.NewSource(2))
	first, last := segmentFiles(t, filepath.Join(dir, "ingester", "wal"))
	lost, torn := "damaged write-ahead log", "partial record"
	out := []damage{
		{"nothing", "", func(*testing.T, string) {}},
		{"garbage after the end", lost, edit(last, func(b []byte) []byte { return append(b, "garbage without end"...) })},
		{"zeros after the end", torn, edit(last, func(b []byte) []byte { return append(b, make([]byte, 4096)...) })},
		{"empty last segment", "", func(t *testing.T, dir string) {
			writeFile(t, filepath.Join(dir, "00000900.wal"), nil)
		}},
		{"last segment with half a magic", torn, func(t *testing.T, dir string) {
			writeFile(t, filepath.Join(dir, "00000900.wal"), []byte("PLW"))
		}},
		{"payload of record 0: labels and samples of one tenant", lost, edit(first, flip(0, frameHeader+40))},
		{"payload of record 2: labels and samples of another tenant", lost, edit(first, flip(2, frameHeader+40))},
		{"length of a record", lost, edit(first, flip(3, 6))},
		{"huge length of a record", lost, edit(first, flip(3, 4))},
		{"magic of a record", lost, edit(first, flip(4, 0))},
		{"checksum of a record", lost, edit(first, flip(5, 9))},
		{"last record", lost, edit(last, flip(-1, frameHeader+9))},
		{"magic of the segment", lost, edit(first, func(b []byte) []byte { b[1] ^= 1; return b })},
		{"first page zeroed", lost, edit(first, zero(0, 4096))},
		{"page in the middle zeroed", lost, edit(first, zero(8192, 4096))},
		{"first segment emptied", lost, edit(first, func([]byte) []byte { return nil })},
	}
	for i := range 4 {
		at := rnd.Int63()
		out = append(out, damage{fmt.Sprint("random byte ", i), "", edit(first, func(b []byte) []byte { b[segmentHeader+at%int64(len(b)-segmentHeader)] ^= 0x10; return b })})
	}
	data := readFile(t, filepath.Join(dir, "ingester", "wal", last))
	frames := frameStarts(data)
	end := frames[len(frames)-1]
	for _, n := range []int{0, 1, 7, 8, segmentHeader, segmentHeader + 1, segmentHeader + frameHeader - 1, segmentHeader + frameHeader, end, end + 1, end + 4, end + 8, end + frameHeader, end + frameHeader + 1, len(data) - 1} {
		says := torn
		if n == 0 || n == segmentHeader || n == end {
			says = "" // an undamaged shorter log looks the same
		}
		out = append(out, damage{fmt.Sprint("cut to ", n, " bytes"), says, edit(last, func(b []byte) []byte { return b[:n] })})
	}
	return out
}

func segmentFiles(t *testing.T, dir string) (first, last string) {
	t.Helper()
	names, err := filepath.Glob(filepath.Join(dir, "*.wal"))
	if err != nil {
		t.Fatal(err)
	}
	slices.Sort(names)
	names = slices.DeleteFunc(names, func(name string) bool { return len(readFile(t, name)) <= segmentHeader })
	return filepath.Base(names[0]), filepath.Base(names[len(names)-1])
}

// edit returns a damage that changes the content of one segment.
func edit(name string, change func([]byte) []byte) func(*testing.T, string) {
	return func(t *testing.T, dir string) {
		path := filepath.Join(dir, name)
		writeFile(t, path, change(readFile(t, path)))
	}
}

// flip returns a change that flips a bit of the i-th frame of a segment, counted from
// the end if i is negative.
func flip(i, offset int) func([]byte) []byte {
	return func(b []byte) []byte {
		frames := frameStarts(b)
		if i < 0 {
			i += len(frames)
		}
		b[frames[i]+offset] ^= 4
		return b
	}
}

func zero(from, n int) func([]byte) []byte {
	return func(b []byte) []byte {
		clear(b[from:min(from+n, len(b))])
		return b
	}
}

// frameStarts returns the offsets of the frames in an undamaged segment.
func frameStarts(b []byte) []int {
	var out []int
	for at := segmentHeader; at+frameHeader <= len(b) && bytes.HasPrefix(b[at:], []byte("\xd6PW\x01")); {
		out = append(out, at)
		at += frameHeader + int(binary.BigEndian.Uint32(b[at+4:]))
	}
	return out
}

func readFile(t *testing.T, path string) []byte {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

func writeFile(t *testing.T, path string, data []byte) {
	t.Helper()
	if err := os.WriteFile(path, data, 0o644); err != nil {
		t.Fatal(err)
	}
}
