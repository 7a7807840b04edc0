package alerts

import (
	"context"
	"errors"
	"strings"
	"testing"

	"github.com/palliumhq/pallium/authn/tenant"
)

// TestLocal checks that alerts for Pallium's own Alertmanagers are posted with their tenant, and that responses are treated
// like those of other Alertmanagers.
func TestLocal(t *testing.T) {
	code, down := 200, false
	var got []string
	target, err := NewLocal([]string{"acme"}, func(_ context.Context, id tenant.ID, body []byte) (int, string, error) {
		if down {
			return 0, "", errors.New("no replica")
		}
		got = append(got, string(id)+" "+string(body))
		return code, "too many", nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if list := targetsOf([]*Target{target}, "other"); len(list) != 0 {
		t.Errorf("another tenant has targets %v", list)
	}
	addresses, err := target.addresses(t.Context())
	if err != nil || len(addresses) != 1 {
		t.Fatalf("addresses %q, %v", addresses, err)
	}
	send := func() error { return target.send(t.Context(), "acme", addresses[0], []item{{alert: active("x")}}) }
	if err := send(); err != nil || len(got) != 1 || !strings.HasPrefix(got[0], "acme [{") {
		t.Errorf("sent %q: %v", got, err)
	}
	var rejected *rejectedError
	for _, c := range []struct {
		code     int
		rejected bool
	}{{400, true}, {429, false}, {503, false}} {
		code = c.code
		if err := send(); err == nil || errors.As(err, &rejected) != c.rejected {
			t.Errorf("status %d: %v", c.code, err)
		}
	}
	down = true
	if err := send(); err == nil || errors.As(err, &rejected) {
		t.Errorf("without a replica: %v", err)
	}
	if _, err := NewLocal([]string{"no tenant!"}, nil); err == nil {
		t.Error("an invalid tenant is accepted")
	}
}
