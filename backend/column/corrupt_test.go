package column

import (
	"encoding/binary"
	"errors"
	"math/rand/v2"
	"runtime"
	"slices"
	"testing"

	"github.com/palliumhq/pallium/backend/series"
)

// handmade is a series in a frame that is written by hand, so that it may be
// invalid.
type handmade struct {
	n          int
	codec      codec
	times      []byte
	values     []byte
	histograms []byte // headers
	chunks     int
	data       []byte // of the histogram chunks
}

func handmadeFrame(list ...handmade) []byte {
	b := binary.AppendUvarint([]byte{version}, uint64(len(list)))
	for _, s := range list {
		b = binary.AppendUvarint(b, uint64(s.n))
		b = binary.AppendUvarint(b, uint64(s.chunks))
		if s.n > 0 {
			b = append(b, byte(s.codec), byte(len(s.times)))
			b = append(b, s.times...)
			b = binary.AppendUvarint(b, uint64(len(s.values)))
		}
		b = append(b, s.histograms...)
	}
	for _, s := range list {
		b = append(b, s.values...)
		b = append(b, s.data...)
	}
	return append(b, make([]byte, padding)...)
}

func uvarints(v ...uint64) (b []byte) {
	for _, x := range v {
		b = binary.AppendUvarint(b, x)
	}
	return b
}

// evenTimes returns the column of n timestamps one second apart.
func evenTimes(n uint64) []byte { return uvarints(n, 0, timesSteps, 1000, modeSparse, 0, 0, 0) }

// integersOf returns encoded values for codecDelta, codecOffset or
// codecPrevious: exponent 0, divisor 1, first integer 0, no exceptions, a
// stream of varints with base 0.
func integersOf(zigzags ...uint64) []byte {
	return uvarints(append([]uint64{0, 1, 0, 0, modeVarint, 0}, zigzags...)...)
}

func withStream(b ...byte) handmade {
	return handmade{n: 4, codec: codecDelta, times: evenTimes(4), values: append([]byte{0, 1, 0, 0}, b...)}
}

func withTimes(n int, times []byte) handmade {
	return handmade{n: n, codec: codecConstant, times: times, values: make([]byte, 8)}
}

func deltas(n int, c codec) handmade {
	return handmade{n: n, codec: c, times: evenTimes(uint64(n)), values: integersOf(make([]uint64, n-1)...)}
}

// TestHandmade decodes frames that are written by hand. Frames whose name begins with + are
// valid; all other frames must be rejected with ErrCorrupt.
func TestHandmade(t *testing.T) {
	const day = uint64(series.DayMillis)
	chain := []handmade{deltas(3, codecDelta)}
	for range maxChain {
		chain = append(chain, deltas(3, codecPrevious))
	}
	chunk := handmade{chunks: 1, histograms: uvarints(2, 0, 5, 3), data: []byte{0, 2, 9}}
	with := func(s handmade, f func(*handmade)) handmade {
		f(&s)
		return s
	}
	values := func(b ...byte) handmade { return with(deltas(4, codecDelta), func(s *handmade) { s.values = b }) }
	for name, list := range map[string][]handmade{
		"+deltas":                   {deltas(4, codecDelta)},
		"+chain":                    chain,
		"+varints":                  {withStream(modeVarint, 0, 2, 4, 6)},
		"+sparse":                   {withStream(modeSparse, 0, 1, 1, 2, modeVarint, 4)},
		"+packed":                   {withStream(modePacked, 0, 0, 0, 0b111)},
		"+exception":                {values(0, 1, 0, 1, 3, 0, 0, 0, 0, 0, 0, 0, 0, 0, modeSparse, 0, 0, 0)},
		"+grid":                     {withTimes(3, uvarints(3, 5, timesGrid, 10, modeVarint, 0, 1, 1))},
		"+last times":               {withTimes(2, uvarints(2, 0, timesSteps, day-1, modeSparse, 0, 0, 0))},
		"+chunk":                    {chunk},
		"longer chain":              append(slices.Clone(chain), deltas(3, codecPrevious)),
		"first depends on previous": {deltas(3, codecPrevious)},
		"previous is longer":        {deltas(900, codecDelta), deltas(3, codecPrevious)},
		"previous is shorter":       {deltas(3, codecDelta), deltas(900, codecPrevious)},
		"previous is constant":      {withTimes(3, evenTimes(3)), deltas(3, codecPrevious)},
		"previous has no floats":    {chunk, deltas(3, codecPrevious)},

		"one value too few":               {withStream(modeVarint, 0, 2, 4)},
		"one value too many":              {withStream(modeVarint, 0, 2, 4, 6, 8)},
		"value without an end":            {withStream(modeVarint, 0, 2, 4, 0x80)},
		"value of 11 bytes":               {withStream(append([]byte{modeVarint, 0, 2, 4}, slices.Repeat([]byte{0xff}, 11)...)...)},
		"sparse in sparse":                {withStream(modeSparse, 0, 1, 1, 2, modeSparse, 4)},
		"sparse beyond the end":           {withStream(modeSparse, 0, 1, 1, 3, modeVarint, 4)},
		"sparse with more":                {withStream(modeSparse, 0, 4, 4, 0, 0, 0, 0, modeVarint, 2, 2, 2, 2)},
		"sparse without a gap":            {withStream(modeSparse, 0, 2, 1, 0, modeVarint, 2, 2)},
		"sparse with gaps left":           {withStream(modeSparse, 0, 1, 2, 0, 0, modeVarint, 2)},
		"sparse with bytes left":          {withStream(modeSparse, 0, 0, 0, 7)},
		"low bits":                        {withStream(append([]byte{modePacked, 57, 0}, make([]byte, 60)...)...)},
		"low bits beyond the end":         {withStream(modePacked, 0, 56, 0, 1, 2, 3)},
		"quotients beyond the end":        {withStream(modePacked, 0, 0, 0, 0b11)},
		"escape beyond the end":           {withStream(modePacked, 0, 0, 0, 0, 0, 0b1101, 0x80)},
		"packed with bytes left":          {withStream(modePacked, 0, 0, 0, 0b111, 0)},
		"packed without a head":           {withStream(modePacked, 0)},
		"no values":                       {values()},
		"no stream":                       {values(0, 1, 0, 0)},
		"no base":                         {values(0, 1, 0, 0, modeVarint)},
		"divisor":                         {values(0, 0, 0, 0, modeSparse, 0, 0, 0)},
		"exception after the last":        {values(0, 1, 0, 1, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, modeSparse, 0, 0, 0)},
		"second exception after the last": {values(0, 1, 0, 1, 3, 1, 0, 0, 0, 0, 0, 0, 0, 0, modeSparse, 0, 0, 0)},
		"exception cut":                   {values(0, 1, 0, 1, 3, 0, 0, 0)},
		"long constant":                   {with(withTimes(3, evenTimes(3)), func(s *handmade) { s.values = make([]byte, 9) })},
		"short constant":                  {with(withTimes(3, evenTimes(3)), func(s *handmade) { s.values = make([]byte, 7) })},

		"no times":               {withTimes(1, uvarints(0, 0))},
		"more times than values": {withTimes(3, evenTimes(4))},
		"first of tomorrow":      {withTimes(1, uvarints(1, day))},
		"one time with more":     {withTimes(1, uvarints(1, 5, 0))},
		"no step":                {withTimes(2, uvarints(2, 5, timesSteps, 0, modeSparse, 0, 0, 0))},
		"even until tomorrow":    {withTimes(3, uvarints(3, 0, timesSteps, day/2, modeSparse, 0, 0, 0))},
		"steps until tomorrow":   {withTimes(3, uvarints(3, 0, timesSteps, day/2, modeVarint, 0, 0, 0))},
		"step back":              {withTimes(3, uvarints(3, 5, timesSteps, 2, modeVarint, 0, 0, 9))},
		"step of zero":           {withTimes(3, uvarints(3, 5, timesSteps, 2, modeVarint, 0, 0, 3))},
		"step wraps":             {withTimes(3, append(uvarints(3, 5, timesSteps, 2, modeVarint, 0, 0), uvarints(1<<64-1)...))},
		"grid repeats":           {withTimes(3, uvarints(3, 5, timesGrid, 10, modeVarint, 0, 19, 39))},
		"grid goes back":         {withTimes(3, uvarints(3, 5, timesGrid, 10, modeVarint, 0, 0, 41))},
		"grid before the first":  {withTimes(2, uvarints(2, 5, timesGrid, 10, modeVarint, 0, 21))},
		"grid until tomorrow":    {withTimes(3, uvarints(3, 0, timesGrid, day/2, modeVarint, 0, 0, 0))},

		"overlap": {with(chunk, func(s *handmade) {
			s.chunks, s.histograms, s.data = 2, uvarints(2, 0, 5, 3, 2, 0, 5, 3), []byte{0, 2, 9, 0, 2, 9}
		})},
		"chunk of tomorrow":          {with(chunk, func(s *handmade) { s.histograms = uvarints(2, 0, day, 3) })},
		"chunk too short":            {with(chunk, func(s *handmade) { s.histograms, s.data = uvarints(2, 0, 5, 1), []byte{0} })},
		"chunk longer than the data": {with(chunk, func(s *handmade) { s.histograms = uvarints(2, 0, 5, 4) })},
		"chunk without samples":      {with(chunk, func(s *handmade) { s.data = []byte{0, 0, 9} })},
		"bytes left":                 {with(chunk, func(s *handmade) { s.data = []byte{0, 2, 9, 9} })},
	} {
		table, err := Open(handmadeFrame(list...), testDay)
		if err == nil {
			i := table.Len() - 1
			_, _, err = table.AppendFloats(i, nil, nil, nil)
			if _, herr := table.Histograms(i); err == nil {
				err = herr
			}
		}
		if name[0] == '+' {
			if err != nil {
				t.Errorf("%s: a valid frame was rejected: %v", name, err)
			}
		} else if !errors.Is(err, ErrCorrupt) || errors.Is(err, ErrNewer) {
			t.Errorf("%s: error %v, want ErrCorrupt", name, err)
		}
	}
}

func TestPadding(t *testing.T) {
	frame := handmadeFrame(deltas(4, codecDelta))
	column := append(evenTimes(3), make([]byte, padding)...)
	if n, err := checkTimes(column); n != 3 || err != nil {
		t.Fatalf("checkTimes of a valid column = %d, %v, want 3", n, err)
	}
	for i := range padding {
		b := slices.Clone(frame)
		b[len(b)-1-i] = 1
		if _, err := Open(b, testDay); !errors.Is(err, ErrCorrupt) {
			t.Errorf("frame, byte %d: %v", i, err)
		}
		c := slices.Clone(column)
		c[len(c)-1-i] = 1
		if _, err := checkTimes(c); !errors.Is(err, ErrCorrupt) {
			t.Errorf("column, byte %d: %v", i, err)
		}
	}
}

// TestClaims checks that corrupt bytes that claim many samples, series or chunks
// do not cause a large allocation.
func TestClaims(t *testing.T) {
	const day = uint64(series.DayMillis)
	most := uvarints(day, 0, timesSteps, 1, modeSparse, 0, 0, 0)
	for name, b := range map[string][]byte{
		"values":  handmadeFrame(handmade{n: int(day), codec: codecDelta, times: most, values: integersOf(0, 0, 0)}),
		"times":   handmadeFrame(withTimes(int(day), uvarints(day, 0, timesSteps, 1, modeVarint, 0, 0, 0))),
		"steps":   handmadeFrame(withTimes(int(day), uvarints(day, 0, timesSteps, 2, modeSparse, 0, 0, 0))),
		"series":  append(append([]byte{version}, uvarints(1<<40)...), make([]byte, 1000)...),
		"many":    append(append([]byte{version}, uvarints(maxSeries+1)...), make([]byte, 4*maxSeries)...),
		"floats":  handmadeFrame(withTimes(int(day)+1, most)),
		"chunks":  handmadeFrame(handmade{chunks: 1 << 30}),
		"a chunk": handmadeFrame(handmade{chunks: 1, histograms: uvarints(2, 0, 0, 1<<29)}),
	} {
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		table, err := Open(b, testDay)
		if err == nil {
			_, _, err = table.AppendFloats(0, nil, nil, nil)
		}
		runtime.ReadMemStats(&after)
		if n := after.TotalAlloc - before.TotalAlloc; n > 1<<20 || !errors.Is(err, ErrCorrupt) {
			t.Errorf("%s: %d bytes allocated, %v", name, n, err)
		}
	}
}

func TestResetForgets(t *testing.T) {
	list, p := chained(t)
	e := NewEncoder(testDay)
	for i := range 2 {
		if _, err := e.Add(&list[i]); err != nil {
			t.Fatal(err)
		}
	}
	e.Reset(testDay + 1)
	if _, err := e.Add(&list[1]); err == nil {
		t.Fatal("Add accepted timestamps of the previous day after Reset")
	}
	e.Reset(testDay)
	if _, err := e.Add(&list[1]); err != nil {
		t.Fatal(err)
	}
	decodeAll(t, packed{frames: [][]byte{e.Append(nil)}, times: p.times[1:2]}, list[1:2])
}

// TestLongSeries checks that an encoder works for the next frame after one with
// more samples than it keeps buffers for.
func TestLongSeries(t *testing.T) {
	rng := rand.New(rand.NewPCG(21, 21))
	s := Series{T: make([]int64, keptSamples+2), V: make([]float64, keptSamples+2)}
	for i := range s.T {
		s.T[i], s.V[i] = testStart+int64(i), float64(rng.IntN(100))
	}
	list := []Series{s, {T: s.T[:3], V: s.V[:3]}}
	e := NewEncoder(testDay)
	for range 2 {
		for i := range list {
			if _, err := e.Add(&list[i]); err != nil {
				t.Fatal(err)
			}
		}
		decodeAll(t, packed{frames: [][]byte{e.Append(nil)}, times: make([][]byte, 2)}, list)
	}
}
