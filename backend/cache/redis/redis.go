// Package redis is a cache in Redis, which the frontends of a cluster share. Correctness
// does not depend on Redis: it may lose everything, and others may be able to write to it.
// Names and values are sealed (package sealed), so that Redis learns neither tenants nor
// queries, and a value that no process of the cluster stored under a key is a miss. Only a
// replay is possible: an older value of the same tenant and key can be decrypted. So the
// frontend compares the versions of every value with the current ones.
//
// Every failure is a miss. By default, reads wait for Redis at most 50 ms. Writes are done in the
// background. After three consecutive failures of reads, no reads are sent to Redis for a second;
// the same applies to writes. The package uses the commands GETRANGE and SET, each for one key, and
// so also works with a Redis Cluster.
package redis

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	goredis "github.com/redis/go-redis/v9"

	"github.com/palliumhq/pallium/authn/tenant"
	"github.com/palliumhq/pallium/backend/background"
	"github.com/palliumhq/pallium/backend/cache"
	"github.com/palliumhq/pallium/backend/cache/sealed"
)

const (
	// prefix is the beginning of all names in Redis.
	prefix = "pallium:results:"
	// batchKeys is how many names one round trip reads.
	batchKeys = 16
	// maxGetBytes is the total size of values after which a Get reads no more, so that one
	// query cannot use unlimited memory.
	maxGetBytes = 64 << 20
)

// Options are the options of New. Seal is required.
type Options struct {
	Seal *sealed.Seal
	// TTL is the time after which Redis deletes a value; default 24 hours. It only limits the
	// space in Redis.
	TTL time.Duration
	// GetTimeout and PutTimeout limit how long a Get and a write to Redis take; default 50
	// milliseconds and one second.
	GetTimeout, PutTimeout time.Duration
	// MaxValueBytes is the size of the largest value that is stored; default 8 MiB.
	MaxValueBytes int
	// QueueBytes is the size of the values that wait to be written; default 64 MiB. One
	// tenant can use a quarter.
	QueueBytes int
	// Now returns the time for the pause after failures; default time.Now.
	Now        func() time.Time
	Logger     *slog.Logger
	Registerer prometheus.Registerer
}

func (o *Options) setDefaults() {
	if o.TTL == 0 {
		o.TTL = 24 * time.Hour
	}
	if o.GetTimeout == 0 {
		o.GetTimeout = 50 * time.Millisecond
	}
	if o.PutTimeout == 0 {
		o.PutTimeout = time.Second
	}
	if o.MaxValueBytes == 0 {
		o.MaxValueBytes = 8 << 20
	}
	if o.QueueBytes == 0 {
		o.QueueBytes = 64 << 20
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
}

// Cache implements cache.Cache.
type Cache struct {
	client        goredis.UniversalClient
	o             Options
	reads, writes *circuit
	queue         *queue
	metrics       *metrics
	log           *limitedLog
	group         *background.Group
}

var _ cache.Cache = (*Cache)(nil)

// New returns a cache and starts its writer, which Close stops. The caller closes the
// client after that.
func New(client goredis.UniversalClient, o Options) *Cache {
	o.setDefaults()
	c := &Cache{
		client: client, o: o, reads: &circuit{now: o.Now}, writes: &circuit{now: o.Now}, queue: newQueue(o.QueueBytes),
		log: &limitedLog{logger: o.Logger, now: o.Now}, group: background.New(),
	}
	c.metrics = newMetrics(o.Registerer, c.queue.size)
	c.group.Go(c.write)
	return c
}

// Close stops writing. Values that are not written yet are dropped.
func (c *Cache) Close() error {
	c.group.Stop()
	c.metrics.puts.WithLabelValues(closed).Add(float64(c.queue.close()))
	return nil
}

// Get implements cache.Cache.
func (c *Cache) Get(ctx context.Context, id tenant.ID, keys []string) map[string][]byte {
	out := map[string][]byte{}
	limited, cancel := context.WithTimeout(ctx, c.o.GetTimeout)
	defer cancel()
	bytes := 0
	for len(keys) > 0 {
		reason := ""
		switch {
		case ctx.Err() != nil:
			reason = canceled
		case limited.Err() != nil:
			reason = timeout
		case bytes > maxGetBytes:
			reason = tooLarge
		case !c.reads.allow():
			reason = circuitOpen
		}
		if reason != "" {
			c.metrics.lookups.WithLabelValues(reason).Add(float64(len(keys)))
			break
		}
		n := min(batchKeys, len(keys))
		bytes += c.getBatch(ctx, limited, id, keys[:n], out)
		keys = keys[n:]
	}
	return out
}

// getBatch adds the values of a few keys to out and returns their bytes. limited is ctx
// with a time limit.
func (c *Cache) getBatch(ctx, limited context.Context, id tenant.ID, keys []string, out map[string][]byte) int {
	var names [][]*goredis.StringCmd // by key, then secret
	err := c.pipeline(limited, func(p goredis.Pipeliner) {
		for _, key := range keys {
			var of []*goredis.StringCmd
			for _, name := range c.o.Seal.Names(id, key) {
				// Unlike GET, GETRANGE limits the size of a value that another client may have
				// stored. For a name that Redis does not have, it returns an empty string, which is
				// never a sealed value.
				of = append(of, p.GetRange(limited, prefix+name, 0, int64(c.o.MaxValueBytes+sealed.Overhead)))
			}
			names = append(names, of)
		}
	})
	if ctx.Err() == nil { // otherwise the caller may have caused the failure
		c.record(c.reads, err)
	}
	bytes := 0
	for i, key := range keys {
		value, result := c.open(ctx, id, key, names[i], err)
		c.metrics.lookups.WithLabelValues(result).Inc()
		if result == hit {
			out[key] = value
			bytes += len(value)
		}
	}
	return bytes
}

// open returns the first value that can be decrypted, and the result of the look-up for the metric. err is
// the error of the whole pipeline.
func (c *Cache) open(ctx context.Context, id tenant.ID, key string, commands []*goredis.StringCmd, err error) ([]byte, string) {
	result := absent
	for _, cmd := range commands {
		text, failed := cmd.Result()
		if err != nil && failed == nil && text == "" {
			failed = err // the command did not run
		}
		switch {
		case failed != nil && ctx.Err() != nil:
			result = canceled
		case failed != nil:
			result = reasonOf(failed)
		case text != "":
			value, err := c.o.Seal.Open(id, key, []byte(text))
			if err == nil {
				return value, hit
			}
			result = invalid
			c.log.warn("ignoring values in the results cache in Redis that this cluster did not store under their keys", "err", err)
		}
	}
	return nil, result
}

// pipeline runs commands in one round trip. It returns an error only if no command succeeded. Each
// command also has its own error.
func (c *Cache) pipeline(ctx context.Context, fill func(goredis.Pipeliner)) (err error) {
	// The library panics if a server announces a value of impossible length. A server that
	// sends invalid replies must not end the process.
	defer func() {
		if v := recover(); v != nil {
			err = fmt.Errorf("read the reply of Redis: %v", v)
		}
	}()
	p := c.client.Pipeline()
	fill(p)
	commands, err := p.Exec(ctx)
	for _, cmd := range commands {
		if cmd.Err() == nil {
			return nil
		}
	}
	return err
}

// record records the outcome of a call in a circuit.
func (c *Cache) record(of *circuit, err error) {
	if of.record(err == nil) {
		c.log.warn("results cache in Redis unavailable: continuing without it", "retry_after", openFor, "err", err)
	}
}

// reasonOf returns the result for the metrics of a call that failed.
func reasonOf(err error) string {
	var timed interface{ Timeout() bool }
	if errors.Is(err, context.DeadlineExceeded) || errors.As(err, &timed) && timed.Timeout() {
		return timeout
	}
	return failed
}
