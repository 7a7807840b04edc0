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

// ErrRejected is wrapped by every error of a Writer that is caused by its
// input, by the order of sections and series, or by a limit of the format, and
// by the errors of Close and Trial if the written pack fails verification. A
// retry with the same input fails again. Errors of writing to the disk do not
// wrap it.
var ErrRejected = errors.New("no valid pack can hold this input")

func rejected(err error) error { return fmt.Errorf("%w: %w", ErrRejected, err) }

// Trial writes series as the only section of a level 0 pack in memory and reads
// the pack back. It returns an error that wraps ErrRejected if a pack cannot
// hold the series. They must be in the order that Writer.Add requires.
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
		return err // wraps ErrRejected: writing to memory has no other errors
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
		return rejected(fmt.Errorf("verify the written pack: %w", err))
	}
	return nil
}

// memorySource is a pack in memory.
type memorySource struct{ b []byte }

func (m memorySource) Range(off int64, n int) ([]byte, error) { return rangeOf(m.b, off, n) }
func (m memorySource) Size() int64                            { return int64(len(m.b)) }
func (m memorySource) Close() error                           { return nil }

// FitMetadata returns the longest prefix of md that fits a section, and the
// number of dropped entries.
func FitMetadata(md []series.MetricMetadata) (kept []series.MetricMetadata, dropped int) {
	size := metadataOverhead // for the number of entries
	for i := range md {
		if size += MetadataSize(&md[i]); size > maxMetadataRaw {
			return md[:i], len(md) - i
		}
	}
	return md, 0
}
