package expand

import (
	"context"
	"fmt"
	"time"
)

// Limits bound the execution of all texts of one notification attempt together.
type Limits struct {
	// Steps bounds the work. Each executed node of a template is one step, and functions take steps for the bytes that
	// they read.
	Steps int
	// Bytes bounds the total size of the output and of the values that functions return.
	Bytes int
	// Depth bounds the depth of nested calls of templates.
	Depth int
	// Time bounds the time of execution. It only ends templates that run for much longer than their number of steps
	// suggests: usually Steps is exceeded first, which does not depend on the load of the machine. Of each pause between
	// executions, such as a request, at most 0.1 s counts.
	Time time.Duration
}

// Defaults returns limits for groups of some hundreds of alerts. Alertmanager's own email for 500 alerts, each with 35
// labels and annotations, takes 270,000 steps and 3.4 MB. On an idle machine, the limit of steps ends nested ranges after
// about 0.1 s, and the most expensive functions after about 0.4 s.
func Defaults() Limits {
	return Limits{Steps: 400_000, Bytes: 4 << 20, Depth: 100, Time: 10 * time.Second}
}

const (
	stepsPerClock = 256                    // steps after which the clock is read
	longestGap    = 100 * time.Millisecond // maximum time between two readings of the clock that counts
	bytesPerStep  = 32                     // bytes that a function copies in the time of a step
)

// budget counts the steps, bytes and time that an attempt has used. After its first error, every template fails with that
// error.
type budget struct {
	limits    Limits
	now       func() time.Time
	done      <-chan struct{}
	cause     func() error
	steps     int64
	bytes     int64
	depth     int
	nextClock int64 // steps at which the clock is read again
	last      time.Time
	elapsed   time.Duration
	err       error
}

// begin resets all counts.
func (b *budget) begin(ctx context.Context) {
	*b = budget{limits: b.limits, now: b.now, done: ctx.Done(), cause: func() error { return context.Cause(ctx) }}
}

// fail records the error, unless there is an earlier one, and returns the first error.
func (b *budget) fail(format string, args ...any) error {
	if b.err == nil {
		b.err = fmt.Errorf(format, args...)
	}
	return b.err
}

// work counts steps.
func (b *budget) work(steps int64) error {
	if b.err != nil {
		return b.err
	}
	if b.steps += max(0, steps); b.steps > int64(b.limits.Steps) {
		return b.fail("the templates of one notification take more than %d steps: "+
			"use fewer nested ranges and shorter texts, or group fewer alerts", b.limits.Steps)
	}
	if b.steps >= b.nextClock {
		return b.clock()
	}
	return nil
}

// clock adds the time since its last call, but at most longestGap, and checks whether the attempt was canceled.
func (b *budget) clock() error {
	b.nextClock = b.steps + stepsPerClock
	now := b.now()
	if !b.last.IsZero() {
		b.elapsed += min(now.Sub(b.last), longestGap)
	}
	if b.last = now; b.elapsed > b.limits.Time {
		return b.fail("the templates of one notification take longer than %v: "+
			"use fewer ranges, regular expressions and large texts, or group fewer alerts", b.limits.Time)
	}
	select {
	case <-b.done:
		return b.fail("the notification was canceled while its templates were executed: %w", b.cause())
	default:
		return nil
	}
}

// room returns an error if a result of n bytes would exceed the limit.
func (b *budget) room(n int64) error {
	if b.err != nil {
		return b.err
	}
	if n > int64(b.limits.Bytes)-b.bytes {
		return b.fail("the templates of one notification produce more than %d bytes, with the results of functions: "+
			"print less in ranges, or group fewer alerts", b.limits.Bytes)
	}
	return nil
}

// use counts n bytes that were produced, and the work of copying them.
func (b *budget) use(n int64) error {
	if err := b.room(n); err != nil {
		return err
	}
	b.bytes += n
	return b.work(n / bytesPerStep)
}

// enter counts a call of a template.
func (b *budget) enter() error {
	if b.depth++; b.depth > b.limits.Depth {
		return b.fail("calls of templates are nested more than %d levels deep", b.limits.Depth)
	}
	return b.use(blankBytes) // the text of a blank template is not counted elsewhere
}

func (b *budget) leave() { b.depth-- }
