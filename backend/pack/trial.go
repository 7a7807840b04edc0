package pack

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"iter"

	"github.com/oklog/ulid/v2"
	"github.com/prometheus/prometheus/model/labels"

	"github.com/palliumhq/pallium/authn/tenant"
	"github.com/palliumhq/pallium/backend/series"
)

// ErrRejected is in every error of a Writer that is due to what it was given: a
// bound of the format or a rule of the calls. Writing the same again fails
// again. Errors of the disk do not have it.
var ErrRejected = errors.New("it cannot be stored in a pack")

func rejected(err error) error { return fmt.Errorf("%w: %w", ErrRejected, err) }

// Trial writes series as the only section of a level 0 pack in memory, reads all
// of it back, and returns an error with ErrRejected when a pack cannot hold
// them. Series come in the order that Writer.Add wants.
func Trial(enc *Encoder, t tenant.ID, day int64, list iter.Seq2[labels.Labels, []series.Chunk]) error {
	var file bytes.Buffer
	w := &Writer{path: "in memory", opts: Options{ID: ulid.ULID{1}}, page: newPageBuilder(), enc: enc.zstd,
		dir: directory{id: ulid.ULID{1}, source: "trial"}, out: &output{name: "in memory", buf: bufio.NewWriter(&file)}}
	w.frame = make([]byte, blockHeaderLen, frameTarget+frameTarget/4)
	err := w.out.write(w.dir.appendHeader(nil))
	if err == nil {
		err = w.startSection(t, day, nil)
	}
	for ls, chunks := range list {
		if err != nil {
			break
		}
		err = w.add(ls, chunks)
	}
	if err == nil {
		err = w.end()
	}
	if err != nil {
		return err // with ErrRejected: memory has no other ones
	}
	if err := w.out.buf.Flush(); err != nil {
		return err
	}
	src := memorySource{file.Bytes()}
	r, err := Open(src)
	if err == nil {
		err = r.Verify()
	}
	if err != nil {
		return rejected(fmt.Errorf("it does not read back: %w", err))
	}
	return nil
}

// memorySource is a pack in memory.
type memorySource struct{ b []byte }

func (m memorySource) Range(off int64, n int) ([]byte, error) { return rangeOf(m.b, off, n) }
func (m memorySource) Size() int64                            { return int64(len(m.b)) }
func (m memorySource) Close() error                           { return nil }

// FitMetadata returns as much of a section's metadata, from the front, as it can
// hold, and how many entries are left out.
func FitMetadata(md []series.MetricMetadata) (kept []series.MetricMetadata, dropped int) {
	size := metadataOverhead // for their number
	for i := range md {
		if size += MetadataSize(&md[i]); size > maxMetadataRaw {
			return md[:i], len(md) - i
		}
	}
	return md, 0
}
