package cluster

import (
	"bytes"
	"errors"
	"log/slog"
	"strings"
	"testing"
	"time"
)

// TestRejections checks that rejected connections are logged at a limited rate, with the
// number of suppressed lines.
func TestRejections(t *testing.T) {
	var log bytes.Buffer
	r := Rejections{log: slog.New(slog.NewTextHandler(&log, nil))}
	start := time.Unix(1_000_000, 0)
	for i := range 1000 {
		r.Add(errors.New("no"), start.Add(time.Duration(i)*time.Millisecond))
	}
	r.Add(errors.New("no"), start.Add(logInterval))
	if n := strings.Count(log.String(), "\n"); n != 2 || !strings.Contains(log.String(), "suppressed=999") {
		t.Errorf("%d log lines, want 2, one of them with suppressed=999: %.300s", n, log.String())
	}
}
