package cli

import (
	"context"
	"flag"
	"fmt"
	"net/http"
	"net/url"
	"strconv"
	"time"

	"github.com/palliumhq/pallium/gateway/cli/command"
)

func operatorVerbs() []command.Command {
	return []command.Command{
		verb("status", "", "show the state of ingesters, compactors and the ring", 0, 0, showStatus),
		verb("flush", "", "seal everything in memory and upload it", 0, 0, flush),
		verb("compact", "", "compact everything that is uploaded, including open days", 0, 0, compact),
		verb("erasure show", "TENANT", "show how much data of a deleted tenant was erased", 1, 1, erasureShow),
	}
}

// taskFlags declares the flags of commands that may take long.
func taskFlags(fs *flag.FlagSet, of string) (instance *string, background *bool) {
	return fs.String("instance", "", of), fs.Bool("background", false, "return immediately instead of waiting for the result")
}

// task starts a command, and waits for its end unless background is set.
func (s *session) task(ctx context.Context, p string, q url.Values, background bool, done string) error {
	if !background {
		s.patient = true
		q.Set("wait", "true")
	}
	var result struct {
		Message string `json:"message"`
	}
	a, err := s.call(ctx, http.MethodPost, p+"?"+q.Encode(), "", nil, &result)
	if err != nil {
		return err
	}
	if background {
		return s.print(a, "started", func() { s.say("started; 'pallium status' and the log show the progress\n") })
	}
	return s.print(a, "done", func() {
		s.say("%s\n", done)
		if result.Message != "" {
			s.say("%s\n", result.Message)
		}
	})
}

func flush(fs *flag.FlagSet) action {
	instance, background := taskFlags(fs, "flush only this `ingester`")
	return func(ctx context.Context, s *session, _ []string) error {
		done := "flushed: all samples acknowledged before the flush are in the long-term store"
		if *instance != "" {
			done = "flushed: all samples that " + *instance + " had before the flush are in the long-term store"
		}
		return s.task(ctx, path("flush"), instanceOf(*instance), *background, done)
	}
}

func instanceOf(name string) url.Values {
	q := url.Values{}
	if name != "" {
		q.Set("instance", name)
	}
	return q
}

func compact(fs *flag.FlagSet) action {
	instance, background := taskFlags(fs, "run it on this `compactor`")
	expire := fs.Bool("expire-all", false, "afterwards delete all days beyond retention, without the usual limit on their number; the "+
		"clock must be right")
	yes := yesFlag(fs)
	return func(ctx context.Context, s *session, _ []string) error {
		q := instanceOf(*instance)
		if *expire {
			q.Set("expire", "all")
			if err := s.confirmExpiry(ctx, *yes); err != nil {
				return err
			}
		}
		return s.task(ctx, path("compact"), q, *background, "compacted")
	}
}

// confirmExpiry shows how many days would be deleted without the usual limit, as the compactors
// last counted them, and asks for a confirmation.
func (s *session) confirmExpiry(ctx context.Context, yes bool) error {
	if yes {
		return nil
	}
	var st statusAnswer
	if _, err := s.call(ctx, http.MethodGet, path("status"), "", nil, &st); err != nil {
		return err
	}
	days := 0
	for _, p := range st.Processes {
		if p.Compactor != nil {
			days += p.Compactor.Expired
		}
	}
	warning := fmt.Sprintf("This permanently deletes all days of all tenants that are beyond their retention now, without the usual limit on "+
		"their number.\nCompactors report %s that are waiting because of this limit. Check the clocks and the retentions first: "+
		"'pallium limits show TENANT'.",
		command.Counted(days, "day"))
	return s.Confirm(ctx, false, warning, "expire-all")
}

func erasureShow(*flag.FlagSet) action {
	return func(ctx context.Context, s *session, args []string) error {
		var e struct {
			Tenant    string `json:"tenant"`
			DeletedAt string `json:"deletedAt"`
			Objects   int    `json:"erasedObjects"`
			Bytes     int64  `json:"erasedBytes"`
			Index     bool   `json:"erasedIndex"`
			SharedBy  string `json:"sharedPacksGoneBy"`
		}
		a, err := s.call(ctx, http.MethodGet, path("erasures", args[0]), "", nil, &e)
		if err != nil {
			return err
		}
		return s.print(a, e.SharedBy, func() {
			s.fields("tenant", e.Tenant, "deleted", e.DeletedAt, "objects erased", strconv.Itoa(e.Objects),
				"bytes erased", strconv.FormatInt(e.Bytes, 10), "index erased", strconv.FormatBool(e.Index), "shared packs erased by", e.SharedBy)
		})
	}
}

const dayLayout = time.DateOnly

// dateOf returns the date of a UTC day counted since 1970.
func dateOf(day int64) string { return time.Unix(day*86400, 0).UTC().Format(dayLayout) }

// windowOf returns the time of day of a window.
func windowOf(window int) string { return fmt.Sprintf("%02d:00-%02d:00", window*2, window*2+2) }

// parseDay parses a date and returns the number of its UTC day since 1970. It rejects day numbers,
// although logs contain them, because they can be mistaken for years: day 2026 is 1975-07-20.
func parseDay(text string) (int64, error) {
	t, err := time.Parse(dayLayout, text)
	if err == nil && t.Unix() >= 0 {
		return t.Unix() / 86400, nil
	}
	const first, last = 10_000, 106_650 // 1997-05-19 and the last day that can have samples, 2261-12-31
	if n, err := strconv.ParseInt(text, 10, 64); err == nil && n >= first && n <= last {
		return 0, command.Misused("%q is not a UTC day: write it as 2026-11-30; day %d of logs is %s", text, n, dateOf(n))
	}
	return 0, command.Misused("%q is not a UTC day: write it as 2026-11-30", command.Shorten(text))
}

type statusAnswer struct {
	Processes []struct {
		Instance string `json:"instance"`
		Error    string `json:"error"`
		Ingester *struct {
			HeadBytes int64
			Tenants   []struct{ Series int }
			Packs     []struct{}
		} `json:"ingester"`
		Compactor *struct {
			Day     int64
			LastRun time.Time
			LastErr string `json:"lastError"`
			Expired int
			Clock   string
			Waiting []struct {
				Day    int64
				Reason string
			}
			Failing []struct {
				Tenant string
				Day    int64
				Err    string `json:"error"`
			}
		} `json:"compactor"`
	} `json:"processes"`
	Members   []memberAnswer `json:"members"`
	RingError string         `json:"ringError"`
	Losses    []lossAnswer   `json:"losses"`
}

func showStatus(*flag.FlagSet) action {
	return func(ctx context.Context, s *session, _ []string) error {
		var st statusAnswer
		a, err := s.call(ctx, http.MethodGet, path("status"), "", nil, &st)
		if err != nil {
			return err
		}
		return s.print(a, strconv.Itoa(len(st.Processes)), func() { s.sayStatus(&st) })
	}
}

func (s *session) sayStatus(st *statusAnswer) {
	for _, p := range st.Processes {
		if p.Error != "" {
			s.say("%s: %s\n", p.Instance, p.Error)
		}
		if i := p.Ingester; i != nil {
			series := 0
			for _, t := range i.Tenants {
				series += t.Series
			}
			s.say("ingester %s: %d series of %s in the head, %d MiB; %s\n",
				p.Instance, series, command.Counted(len(i.Tenants), "tenant"), i.HeadBytes>>20, command.Counted(len(i.Packs), "local pack"))
		}
		c := p.Compactor
		if c == nil {
			continue
		}
		doing := "idle"
		if c.Day >= 0 {
			doing = "compacting " + dateOf(c.Day)
		}
		s.say("compactor %s: %s, last run %s\n", p.Instance, doing, c.LastRun.UTC().Format(time.RFC3339))
		if c.LastErr != "" {
			s.say("  %s\n", c.LastErr)
		}
		if c.Clock != "" {
			s.say("  nothing is deleted by age: %s\n", c.Clock)
		}
		if c.Expired > 0 {
			s.say("  %s beyond retention not deleted yet, because the number of deletions in 24 hours is limited; if the clock is right, "+
				"'pallium compact -expire-all' deletes them now\n", command.Counted(c.Expired, "day"))
		}
		for _, w := range c.Waiting {
			s.say("  %s is waiting: %s\n", dateOf(w.Day), w.Reason)
		}
		for _, f := range c.Failing {
			s.say("  compaction of %s of tenant %s fails: %s\n", dateOf(f.Day), f.Tenant, f.Err)
		}
	}
	if st.RingError != "" {
		s.say("ring: %s\n", st.RingError)
	}
	if n := len(st.Losses); n > 0 {
		s.say("%s with lost samples: 'pallium loss list' shows them\n", command.Counted(n, "window"))
	}
	if len(st.Members) > 0 {
		s.say("\n")
		s.sayTable(memberHead, memberRows(st.Members))
	}
}
