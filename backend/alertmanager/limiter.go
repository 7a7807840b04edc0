package alertmanager

import (
	"fmt"
	"sync"

	"github.com/prometheus/alertmanager/alert"
	"github.com/prometheus/alertmanager/silence"
	"github.com/prometheus/common/model"
)

// alertLimits rejects alerts beyond a tenant's limits. It implements the callbacks of Alertmanager's alert store, which holds
// a lock during all of them except PostDelete and PostGC.
type alertLimits struct {
	*silence.Silencer
	limits func() (alerts, bytes int)

	mu       sync.Mutex
	sizes    map[model.Fingerprint]int
	bytes    int
	rejected error // the last rejection since the last call of take
}

func newAlertLimits(s *silence.Silencer, limits func() (alerts, bytes int)) *alertLimits {
	return &alertLimits{Silencer: s, limits: limits, sizes: map[model.Fingerprint]int{}}
}

// sizeOf returns the approximate size of an alert in bytes.
func sizeOf(a *alert.Alert) int {
	n := 100 + len(a.GeneratorURL)
	for _, set := range []model.LabelSet{a.Labels, a.Annotations} {
		for k, v := range set {
			n += len(k) + len(v)
		}
	}
	return n
}

// PreStore implements mem.AlertStoreCallback.
func (l *alertLimits) PreStore(a *alert.Alert, existing bool) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	count, bytes := l.limits()
	size := sizeOf(a) - l.sizes[a.Fingerprint()]
	var err error
	switch {
	case count > 0 && !existing && len(l.sizes) >= count:
		err = fmt.Errorf("the Alertmanager of the tenant has %d alerts, max_alertmanager_alerts is %d: the alert %s was not accepted",
			len(l.sizes), count, a.Name())
	case bytes > 0 && size > 0 && l.bytes+size > bytes:
		err = fmt.Errorf("the alerts in the Alertmanager of the tenant have %d bytes, max_alertmanager_alert_bytes is %d: the alert %s "+
			"was not accepted", l.bytes, bytes, a.Name())
	}
	if err != nil {
		l.rejected = err
	}
	return err
}

// PostStore implements mem.AlertStoreCallback.
func (l *alertLimits) PostStore(a *alert.Alert, _ bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	size := sizeOf(a)
	l.bytes += size - l.sizes[a.Fingerprint()]
	l.sizes[a.Fingerprint()] = size
}

// PostDelete implements mem.AlertStoreCallback.
func (l *alertLimits) PostDelete(a *alert.Alert) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.bytes -= l.sizes[a.Fingerprint()]
	delete(l.sizes, a.Fingerprint())
}

// take returns the error of the last alert that was rejected since the previous call, or nil.
func (l *alertLimits) take() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	err := l.rejected
	l.rejected = nil
	return err
}

// count returns the number of alerts.
func (l *alertLimits) count() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.sizes)
}
