package rpc

import (
	"context"
	"testing"

	"github.com/palliumhq/pallium/authn/cluster"
	"github.com/palliumhq/pallium/backend/series"
)

// sink accepts every push.
type sink struct{ Ingester }

func (sink) Push(context.Context, *series.Batch) (series.Outcome, error) {
	return series.Outcome{}, nil
}

// BenchmarkPush measures a push of 2000 series from a distributor to an ingester, with and
// without encryption.
func BenchmarkPush(b *testing.B) {
	secrets, err := cluster.ParseSecrets(secret)
	if err != nil {
		b.Fatal(err)
	}
	for name, plain := range map[string]bool{"TLS": false, "plain": true} {
		b.Run(name, func(b *testing.B) {
			m, err := cluster.New(cluster.Options{Secrets: secrets, PlainText: plain})
			if err != nil {
				b.Fatal(err)
			}
			p := serveIngester(b, sink{}, m, m)
			in := push("a", body(b, 2000))
			b.SetBytes(int64(len(in.Write)))
			for b.Loop() {
				if _, err := p.Push(ctx, in); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
