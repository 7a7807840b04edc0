package peers

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/palliumhq/pallium/backend/background"
)

var errDown = errors.New("down")

func list(ids ...string) []Peer[string] {
	var out []Peer[string]
	for _, id := range ids {
		out = append(out, Peer[string]{ID: id, Domain: id[:1], Client: id})
	}
	return out
}

// TestEach checks that every peer is called, at most maxConcurrent at a time, and that
// replies are in the order of the list.
func TestEach(t *testing.T) {
	var ids []string
	for i := range 3 * maxConcurrent {
		ids = append(ids, fmt.Sprintf("a%d", i))
	}
	var busy, most atomic.Int32
	got := Each(t.Context(), list(ids...), func(_ context.Context, id string) (string, error) {
		n := busy.Add(1)
		defer busy.Add(-1)
		for old := most.Load(); n > old && !most.CompareAndSwap(old, n); old = most.Load() {
		}
		if id == "a7" {
			return "", errDown
		}
		return "of " + id, nil
	})
	for i, r := range got {
		if ok := r.Value == "of "+ids[i] && r.Err == nil; ok == (r.ID == "a7") || r.ID != ids[i] {
			t.Errorf("reply %d = %+v", i, r)
		}
	}
	if n := most.Load(); n > maxConcurrent {
		t.Errorf("%d concurrent calls, want at most maxConcurrent", n)
	}
	if err := got[7].Err; !errors.Is(err, errDown) || !strings.Contains(err.Error(), "instance a7") {
		t.Errorf("error %v, want errDown of instance a7", err)
	}
}

func TestAll(t *testing.T) {
	call := func(_ context.Context, id string) (int, error) {
		if strings.HasPrefix(id, "b") {
			return 0, errDown
		}
		return len(id), nil
	}
	if got, err := All(t.Context(), list("a1", "a22"), call); err != nil || len(got) != 2 || got[0] != 2 || got[1] != 3 {
		t.Errorf("All = %v, %v", got, err)
	}
	got, err := All(t.Context(), list("a1", "b2", "b3"), call)
	if got != nil || !errors.Is(err, errDown) || !strings.Contains(err.Error(), "b2") || !strings.Contains(err.Error(), "b3") {
		t.Errorf("All = %v, %v", got, err)
	}
}

// TestEnough checks that responses of all domains but one are enough, that other responses
// are dropped, and that no call runs after an error.
func TestEnough(t *testing.T) {
	errLimit := errors.New("limit")
	for _, tt := range []enoughTest{
		{name: "all respond", peers: list("a1", "b1", "c1"), quorum: Quorum{Tolerate: 1}, called: 2, got: 2},
		{name: "one fails", peers: list("a1", "b1", "c1"), quorum: Quorum{Tolerate: 1}, fail: "a1", with: errDown, got: 2},
		{name: "one hangs", peers: list("a1", "b1", "c1"), quorum: Quorum{Tolerate: 1}, hang: "b1", got: 2},
		{name: "two of a domain fail", peers: list("a1", "a2", "b1", "c1"), quorum: Quorum{Tolerate: 1}, fail: "a1 a2", with: errDown, got: 2},
		{name: "two fail", peers: list("a1", "b1", "c1"), quorum: Quorum{Tolerate: 1}, fail: "a1 b1", with: errDown, want: ErrTooFew},
		{name: "a final error", peers: list("a1", "b1", "c1"), quorum: Quorum{Tolerate: 1, Final: func(err error) bool { return errors.Is(err, errLimit) }},
			fail: "a1 b1 c1", with: errLimit, want: errLimit, called: 2},
		{name: "only two domains in the list", peers: list("a1", "b1"), quorum: Quorum{Tolerate: 1}, fail: "b1", with: errDown, want: ErrTooFew},
		{name: "one is lost", peers: list("a1", "b1", "c1"), quorum: Quorum{Tolerate: 1, Lost: []string{"a"}}, got: 2},
		{name: "one is lost, another fails", peers: list("a1", "b1", "c1"), quorum: Quorum{Tolerate: 1, Lost: []string{"a"}}, fail: "b1", with: errDown, want: ErrTooFew},
		{name: "two are lost", peers: list("a1", "b1", "c1"), quorum: Quorum{Tolerate: 1, Lost: []string{"a", "b"}}, want: ErrLost, called: -1},
		{name: "no peers", quorum: Quorum{}, want: ErrTooFew},
	} {
		for _, key := range []string{"x", "y", "z", "k"} {
			tt.quorum.Key, tt.quorum.HedgeAfter = key, time.Hour
			if tt.hang != "" {
				tt.quorum.HedgeAfter = time.Millisecond
			}
			synctest.Test(t, func(t *testing.T) { enough(t, &tt) })
		}
	}
}

// enoughTest is a test case of TestEnough.
type enoughTest struct {
	name   string
	peers  []Peer[string]
	quorum Quorum
	fail   string // peers that fail
	with   error
	hang   string // peers that respond a second after ctx has ended
	want   error
	called int // maximum number of calls; 0 means any, -1 none
	got    int // minimum number of responses
}

func enough(t *testing.T, tt *enoughTest) {
	tt.quorum.Late = background.New()
	var called, dropped, ended atomic.Int32
	got, err := Enough(t.Context(), tt.peers, tt.quorum, func(ctx context.Context, id string) (string, error) {
		called.Add(1)
		defer ended.Add(1)
		switch {
		case strings.Contains(tt.hang, id) && tt.hang != "":
			<-ctx.Done()
			time.Sleep(time.Second)
		case strings.Contains(tt.fail, id) && tt.fail != "":
			return "", tt.with
		}
		return id, nil
	}, func(string) { dropped.Add(1) })
	if !errors.Is(err, tt.want) || err == nil && len(got) < tt.got {
		t.Errorf("%s: %v, %v; want %v", tt.name, got, err, tt.want)
	}
	if n := int(called.Load()); tt.called != 0 && n > max(tt.called, 0) {
		t.Errorf("%s: %d calls, want at most %d", tt.name, n, max(tt.called, 0))
	}
	if err != nil && ended.Load() != called.Load() {
		t.Errorf("%s: Enough returned an error before its calls ended", tt.name)
	}
	tt.quorum.Late.Stop()
	if ended.Load() != called.Load() {
		t.Errorf("%s: Late did not wait for the remaining calls", tt.name)
	}
	if tt.fail == "" && len(got)+int(dropped.Load()) < int(called.Load()) {
		t.Errorf("%s: %d responses, %d returned and %d dropped", tt.name, called.Load(), len(got), dropped.Load())
	}
}
