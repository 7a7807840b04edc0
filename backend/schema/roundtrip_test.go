package schema

import (
	"fmt"
	"math/rand/v2"
	"reflect"
	"slices"
	"testing"

	"github.com/oklog/ulid/v2"
	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/model/metadata"

	"github.com/palliumhq/pallium/authn/tenant"
	"github.com/palliumhq/pallium/backend/series"
)

// any63 returns a random number for a signed field, any64 one for an unsigned field, of any magnitude.
func any63(rng *rand.Rand) int64  { return rng.Int64() >> rng.IntN(63) }
func any64(rng *rand.Rand) uint64 { return rng.Uint64() >> rng.IntN(64) }

func anyTime(rng *rand.Rand) int64 {
	if rng.IntN(4) == 0 {
		return ^any63(rng)
	}
	return any63(rng)
}

func anyText(rng *rand.Rand) string { return string(randomBytes(rng, rng.IntN(1<<rng.IntN(9)))) }

func anyID(rng *rand.Rand) (id ulid.ULID) {
	copy(id[:], randomBytes(rng, len(id)))
	return id
}

func anyManifest(rng *rand.Rand) Manifest {
	m := Manifest{Version: Version{uint32(any64(rng)), any64(rng)}, Day: rng.Int64N(MaxDay + 1), Expiry: anyTime(rng), Tombstone: any64(rng),
		Written: anyTime(rng), Series: any63(rng), Samples: any63(rng)}
	var metrics []string
	for range 2 * rng.IntN(6) {
		metrics = append(metrics, anyText(rng))
	}
	slices.Sort(metrics)
	for i := 0; i < len(metrics); i += 2 {
		p := PackEntry{ID: anyID(rng), Object: anyText(rng), Size: any63(rng), CRC: rng.Uint32(), MinTime: anyTime(rng), MaxTime: anyTime(rng),
			Series: any63(rng), Samples: any63(rng), FirstMetric: metrics[i], LastMetric: metrics[i+1]}
		p.MinTime, p.MaxTime = min(p.MinTime, p.MaxTime), max(p.MinTime, p.MaxTime)
		m.Packs = append(m.Packs, p)
	}
	for range rng.IntN(5) {
		m.Sources = append(m.Sources, anyID(rng))
	}
	return m
}

func anyReceipt(rng *rand.Rand) Receipt {
	r := Receipt{Object: anyText(rng), Size: any63(rng), CRC: rng.Uint32(), Ingester: anyText(rng), Zone: anyText(rng),
		Tenants: rng.IntN(1 << 20), Sealed: anyTime(rng), Attempt: any64(rng)}
	for w := range 12 {
		if rng.IntN(2) == 0 {
			r.Windows = append(r.Windows, w)
		}
	}
	return r
}

func anyTombstone(rng *rand.Rand) Tombstone {
	d := Tombstone{Number: any64(rng), State: State(rng.IntN(2)), MinTime: anyTime(rng), MaxTime: anyTime(rng), Created: anyTime(rng)}
	for range rng.IntN(4) {
		var set []Matcher
		for range rng.IntN(4) {
			set = append(set, Matcher{labels.MatchType(rng.IntN(4)), anyText(rng), anyText(rng)})
		}
		d.Sets = append(d.Sets, set)
	}
	return d
}

func sortedTexts(rng *rand.Rand, n int) []string {
	var out []string
	for range rng.IntN(n) {
		out = append(out, anyText(rng))
	}
	slices.Sort(out)
	return slices.Compact(out)
}

func anyNames(rng *rand.Rand) Names {
	n := Names{Metrics: []Metric{}, Labels: []Label{}}
	for _, name := range sortedTexts(rng, 50) {
		n.Metrics = append(n.Metrics, Metric{Name: name, Series: rng.IntN(1 << 40), Pages: rng.IntN(MaxIndex + 1)})
	}
	for _, name := range sortedTexts(rng, 20) {
		n.Labels = append(n.Labels, Label{Name: name, Values: rng.IntN(1 << 40), Buckets: sortedTexts(rng, 9)})
	}
	for range rng.IntN(9) {
		n.Metadata = append(n.Metadata, series.MetricMetadata{Metric: anyText(rng),
			Metadata: metadata.Metadata{Type: model.MetricType(anyText(rng)), Unit: anyText(rng), Help: anyText(rng)}})
	}
	return n
}

// TestRoundTrip encodes and decodes random values.
func TestRoundTrip(t *testing.T) {
	const seed = 21
	c := testCodec(t)
	for round := range uint64(400) {
		rng := rand.New(rand.NewPCG(seed, round))
		same := func(what string, want, got any, err error) {
			if err != nil || !reflect.DeepEqual(got, want) {
				t.Fatalf("seed %d, round %d: %s was decoded as %+v, %v; want %+v", seed, round, what, got, err, want)
			}
		}
		m := anyManifest(rng)
		gotM, err := DecodeManifest(m.Encode())
		same("manifest", m, gotM, err)
		l := L0Entry{Object: anyText(rng), ObjectSize: any63(rng), Ingester: anyText(rng), Offset: any63(rng), Length: any63(rng), CRC: rng.Uint32(),
			MinTime: anyTime(rng), MaxTime: anyTime(rng), Series: any63(rng), Samples: any63(rng), Tombstone: any64(rng), Sealed: anyTime(rng)}
		gotL, err := DecodeL0Entry(l.Encode())
		same("L0 entry", l, gotL, err)
		in := Intent{Since: anyTime(rng), Late: rng.IntN(2) == 0, Zone: anyText(rng)}
		gotI, err := DecodeIntent(in.Encode())
		same("intent", in, gotI, err)
		rc := anyReceipt(rng)
		gotR, err := DecodeReceipt(rc.Encode())
		same("receipt", rc, gotR, err)
		d := anyTombstone(rng)
		gotD, err := DecodeTombstone(d.Encode())
		same("deletion", d, gotD, err)
		g := Garbage{Kind: anyText(rng), Name: anyText(rng), Tenant: tenant.ID(fmt.Sprint("t", round)), Day: anyTime(rng), Version: Version{uint32(any64(rng)), any64(rng)}}
		gotG, err := DecodeGarbage(g.Encode())
		same("garbage entry", g, gotG, err)
		le := Lease{Holder: anyText(rng), Until: anyTime(rng)}
		gotLe, err := DecodeLease(le.Encode())
		same("lease", le, gotLe, err)
		rg := RuleGroup{YAML: anyText(rng), Written: anyTime(rng)}
		gotRg, err := DecodeRuleGroup(rg.Encode())
		same("group of rules", rg, gotRg, err)
		rv := RulesVersion{Number: any64(rng) | 1, Attempt: any64(rng)}
		gotRv, err := DecodeRulesVersion(rv.Encode())
		same("version of rules", rv, gotRv, err)
		bf := Backfill{State: BackfillState(rng.IntN(3)), Start: anyTime(rng), End: anyTime(rng), Done: anyTime(rng), Samples: anyTime(rng),
			Failed: anyTime(rng), Error: anyText(rng), Created: anyTime(rng), Updated: anyTime(rng)}
		gotBf, err := DecodeBackfill(bf.Encode())
		same("backfill", bf, gotBf, err)
		sh := Share{Holder: anyText(rng), Number: any64(rng), Sequence: any64(rng), Until: anyTime(rng)}
		gotSh, err := DecodeShare(sh.Encode())
		same("share", sh, gotSh, err)
		am := AlertmanagerConfig{YAML: anyText(rng), Written: anyTime(rng)}
		gotAm, err := DecodeAlertmanagerConfig(am.Encode())
		same("configuration of an Alertmanager", am, gotAm, err)
		si := Silence{Mesh: anyText(rng), Updated: anyTime(rng), Expires: anyTime(rng)}
		gotSi, err := DecodeSilence(si.Encode())
		same("silence", si, gotSi, err)
		no := Notification{Holder: anyText(rng), Number: any64(rng), Sequence: any64(rng), Content: any64(rng), Failures: any64(rng),
			Flushed: anyTime(rng), Expires: anyTime(rng), Entry: anyText(rng)}
		gotNo, err := DecodeNotification(no.Encode())
		same("notification", no, gotNo, err)
		n := anyNames(rng)
		gotN, err := c.DecodeNames(n.Encode(c))
		same("names", n, gotN, err)
	}
}
