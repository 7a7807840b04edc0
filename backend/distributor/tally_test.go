package distributor

import (
	"errors"
	"testing"

	"github.com/palliumhq/pallium/backend/series"
	"github.com/palliumhq/pallium/backend/wire"
)

// TestOrderOfResponses checks that the order of the replicas' responses does not change the
// fate of an entry, and that a rejected entry has one rejection.
func TestOrderOfResponses(t *testing.T) {
	orders := [][3]int{{0, 1, 2}, {0, 2, 1}, {1, 0, 2}, {1, 2, 0}, {2, 0, 1}, {2, 1, 0}}
	combinations(func(answers [3]kind, repeat kind) {
		want, _ := rule(answers, repeat)
		for _, order := range orders {
			b := &series.Batch{Tenant: "t", Entries: []series.Entry{interestingSeries(0)}}
			instances := newZones(1).ring.Instances()
			parts := make([]part, 3)
			for i := range parts {
				parts[i] = part{instance: &instances[i]}
			}
			tl := newTally(b, parts, 3)
			for _, i := range order {
				if tl.decided() {
					break // as exchange does
				}
				tl.add(answerOf(&parts[i], answers[i]))
			}
			again := tl.repeats()
			tl.await(again)
			for i := range again {
				again[i].established = true
				tl.add(answerOf(&again[i], repeat))
			}
			if got := tl.final(0); got != want {
				t.Errorf("%v then %v in order %v: fate %d, want %d", answers, repeat, order, got, want)
			}
			if out, err := tl.outcome(); (err == nil) != (want != fateUndecided) || err == nil && want == fateRejected && len(out.Rejections) != 1 {
				t.Errorf("%v then %v in order %v: %+v, %v", answers, repeat, order, out, err)
			}
		}
	})
}

func answerOf(p *part, k kind) response {
	a := response{part: p}
	switch k {
	case creates:
		a.out.Created = []uint32{0}
	case full:
		a.out.Rejections = []wire.Rejection{{Reason: "instance_memory", Message: "full"}}
	case rejects:
		a.out.Rejections = []wire.Rejection{{Reason: "too_many_sample_type_changes", Message: "changes"}}
	case fails:
		a.err = errors.New("down")
	case exists:
	}
	return a
}

// FuzzResponse checks that each replica of an entry counts once, whatever an ingester
// responds.
func FuzzResponse(f *testing.F) {
	for _, r := range []wire.PushResponse{
		{}, {Created: []uint32{0, 1, 2, 1 << 31}}, {Created: []uint32{2, 1}},
		{Rejections: []wire.Rejection{{Entry: -1}, {Entry: 1, Places: []uint32{1, 1 << 31, 0, 1}, Reason: "x"}, {Entry: 1 << 40}}},
		{Rejections: []wire.Rejection{{Entry: 1, Reason: "instance_memory"}, {Entry: 1, Places: []uint32{1}, Reason: "b"}}, Exemplars: 1 << 62},
		{Rejections: []wire.Rejection{{Entry: 1, Reason: "max_active_series"}, {Entry: 0, Reason: "max_active_series"}}},
		{Repeats: []wire.Repeats{{Entry: 1, Same: 1 << 62, Different: -1}, {Entry: -1, Same: 1}, {Entry: 1 << 40}}},
	} {
		data, err := r.Marshal()
		if err != nil {
			f.Fatal(err)
		}
		f.Add(data, data)
	}
	f.Fuzz(func(t *testing.T, first, second []byte) {
		var out, again wire.PushResponse
		if out.Unmarshal(first) != nil || again.Unmarshal(second) != nil {
			return
		}
		b := &series.Batch{Tenant: "t", Entries: []series.Entry{interestingSeries(0), interestingSeries(1), interestingSeries(2)}}
		instances := newZones(1).ring.Instances()
		parts := []part{{instance: &instances[0]}, {instance: &instances[1]},
			{instance: &instances[2], entries: []int32{0, 1, 2}}}
		tl := newTally(b, parts, 3)
		tl.add(answerOf(&parts[1], rejects)) // the first entry
		tl.add(answerOf(&parts[2], full))
		tl.add(response{part: &parts[0], out: out})
		again0 := tl.repeats()
		tl.await(again0)
		for i := range again0 {
			again0[i].established = true
			tl.add(response{part: &again0[i], out: again})
		}
		if !tl.decided() {
			t.Errorf("waiting for responses: %+v", tl.counts)
		}
		for i, c := range tl.counts {
			if c.waiting != 0 || c.existing+c.created+c.soft+c.hard != 3 || len(tl.rejected[i]) != int(c.soft+c.hard+c.partial) {
				t.Errorf("entry %d: %+v, rejected %+v", i, c, tl.rejected[i])
			}
		}
		res, _ := tl.outcome()
		for _, r := range res.Rejections {
			if r.Samples < 1 || r.Samples+res.Samples > 6 {
				t.Errorf("of 6 samples: %+v", res)
			}
		}
	})
}

// TestPlacesOutOfBounds checks that a response cannot reject more samples than an entry has.
func TestPlacesOutOfBounds(t *testing.T) {
	b := &series.Batch{Tenant: "t", Entries: []series.Entry{interestingSeries(0)}}
	instances := newZones(1).ring.Instances()
	for _, tt := range []struct {
		rejections []wire.Rejection
		rejected   int
	}{
		{[]wire.Rejection{{Reason: "a"}}, 2},
		{[]wire.Rejection{{Reason: "a", Places: []uint32{1, 0, 1, 7}}}, 2},
		{[]wire.Rejection{{Reason: "a", Places: []uint32{1}}}, 1},
		{[]wire.Rejection{{Reason: "a", Places: []uint32{1, 1, 1}}}, 1},
		{[]wire.Rejection{{Reason: "a", Places: []uint32{2, 1 << 31}}}, 0},
		{[]wire.Rejection{{Reason: "a", Places: []uint32{0}}, {Reason: "b", Places: []uint32{1}}}, 2},
		{[]wire.Rejection{{Reason: "a", Places: []uint32{0}}, {Reason: "instance_memory"}}, 2},
	} {
		parts := []part{{instance: &instances[0]}, {instance: &instances[1]}, {instance: &instances[2]}}
		tl := newTally(b, parts, 3)
		for i := range 2 {
			tl.add(response{part: &parts[i], out: wire.PushResponse{Rejections: tt.rejections}})
		}
		out, err := tl.outcome()
		rejected := 0
		for _, r := range out.Rejections {
			rejected += r.Samples
		}
		if err != nil || rejected != tt.rejected || out.Samples+out.Histograms != 2-tt.rejected {
			t.Errorf("response with %+v: outcome %+v, error %v; want %d samples rejected", tt.rejections, out, err, tt.rejected)
		}
	}
}

// TestEachSampleIsDecided checks all combinations of three replicas' responses to an entry
// of two samples: a sample counts as accepted only if two replicas applied it, and as
// rejected only if it is rejected permanently.
func TestEachSampleIsDecided(t *testing.T) {
	answers := []struct {
		name    string
		answer  func(*part) response
		rejects [2]bool
		applies bool // the other samples
	}{
		{"exists", func(p *part) response { return answerOf(p, exists) }, [2]bool{}, true},
		{"creates", func(p *part) response { return answerOf(p, creates) }, [2]bool{}, true},
		{"full", func(p *part) response { return answerOf(p, full) }, [2]bool{}, false},
		{"fails", func(p *part) response { return answerOf(p, fails) }, [2]bool{}, false},
		{"rejects", func(p *part) response { return answerOf(p, rejects) }, [2]bool{true, true}, false},
		{"rejects 0", rejectsPlace(0, false), [2]bool{true, false}, true},
		{"rejects 1", rejectsPlace(1, false), [2]bool{false, true}, true},
		{"creates, rejects 1", rejectsPlace(1, true), [2]bool{false, true}, true},
	}
	instances := newZones(1).ring.Instances()
	mixed := 0
	for i := range answers {
		for j := range answers {
			for k := range answers {
				b := &series.Batch{Tenant: "t", Entries: []series.Entry{interestingSeries(0)}}
				parts := []part{{instance: &instances[0]}, {instance: &instances[1]}, {instance: &instances[2]}}
				tl := newTally(b, parts, 3)
				var applied, rejected [2]int
				name := ""
				for p, a := range []int{i, j, k} {
					name += answers[a].name + "; "
					tl.add(answers[a].answer(&parts[p]))
					for place := range 2 {
						switch {
						case answers[a].rejects[place]:
							rejected[place]++
						case answers[a].applies:
							applied[place]++
						}
					}
				}
				out, err := tl.outcome()
				if err != nil {
					continue // the sender repeats the request
				}
				atMost, dropped := 0, 0
				for place := range 2 {
					if applied[place] >= 2 {
						atMost++
					}
				}
				for _, r := range out.Rejections {
					dropped += r.Samples
				}
				if kept := out.Samples + out.Histograms; kept > atMost || kept+dropped != 2 {
					t.Errorf("%s%d accepted and %d rejected of samples that %v replicas applied", name, kept, dropped, applied)
				} else if kept == 1 {
					mixed++
				}
				if rejected[0] >= 2 && rejected[1] >= 2 && dropped != 2 {
					t.Errorf("%s%d rejected", name, dropped)
				}
			}
		}
	}
	if mixed == 0 {
		t.Error("no entry was accepted in part")
	}
}

func rejectsPlace(place uint32, isNew bool) func(*part) response {
	return func(p *part) response {
		a := answerOf(p, exists)
		if isNew {
			a = answerOf(p, creates)
		}
		a.out.Rejections = []wire.Rejection{{Reason: "too_many_sample_type_changes", Places: []uint32{place}, Message: "changes"}}
		return a
	}
}

// TestRepeatsAreCountedOnce checks that duplicate samples are not counted per replica.
func TestRepeatsAreCountedOnce(t *testing.T) {
	b := &series.Batch{Tenant: "t", Entries: []series.Entry{interestingSeries(0), interestingSeries(1)}}
	instances := newZones(1).ring.Instances()
	parts := []part{{instance: &instances[0]}, {instance: &instances[1]}, {instance: &instances[2], entries: []int32{1}}}
	tl := newTally(b, parts, 2)
	for i := range parts {
		tl.add(response{part: &parts[i], out: wire.PushResponse{Repeats: []wire.Repeats{{Entry: 0, Different: 1}}}})
	}
	out, err := tl.outcome()
	if err != nil || len(out.Repeats) != 2 || out.Repeats[0] != (series.EntryRepeats{Entry: 0, Different: 1}) || out.Repeats[1] != (series.EntryRepeats{Entry: 1, Different: 1}) {
		t.Errorf("repeats %+v, error %v", out.Repeats, err)
	}
}

// TestOtherReplicationFactors checks the rules for numbers of replicas other than three.
func TestOtherReplicationFactors(t *testing.T) {
	for _, tt := range []struct {
		answers []kind
		repeats int // all accepted
		want    fate
	}{
		{[]kind{exists}, 0, fateAccepted},
		{[]kind{creates}, 0, fateAccepted},
		{[]kind{full}, 0, fateRejected},
		{[]kind{rejects}, 0, fateRejected},
		{[]kind{fails}, 0, fateUndecided},
		{[]kind{exists, full}, 1, fateAccepted},
		{[]kind{creates, full}, 0, fateRejected},
		{[]kind{full, fails}, 0, fateUndecided},
		{[]kind{exists, creates, full, fails, fails}, 1, fateAccepted},
		{[]kind{exists, full, full, rejects, fails}, 2, fateAccepted},
		{[]kind{exists, full, rejects, rejects, fails}, 1, fateUndecided},
		{[]kind{exists, full, rejects, rejects, rejects}, 0, fateRejected},
		{[]kind{creates, creates, full, fails, fails}, 0, fateRejected},
		{[]kind{full, full, fails, fails, fails}, 0, fateUndecided},
	} {
		b := &series.Batch{Tenant: "t", Entries: []series.Entry{interestingSeries(0)}}
		instances := newZones(2).ring.Instances()
		parts := make([]part, len(tt.answers))
		for i := range parts {
			parts[i] = part{instance: &instances[i]}
		}
		tl := newTally(b, parts, len(parts))
		for i := range parts {
			tl.add(answerOf(&parts[i], tt.answers[i]))
		}
		again := tl.repeats()
		tl.await(again)
		for i := range again {
			again[i].established = true
			tl.add(answerOf(&again[i], creates))
		}
		if got := tl.final(0); got != tt.want || len(again) != tt.repeats {
			t.Errorf("%v: fate %d after %d repeats, want %d after %d", tt.answers, got, len(again), tt.want, tt.repeats)
		}
	}
}
