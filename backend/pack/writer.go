package pack

import (
	"cmp"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/klauspost/compress/zstd"
	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/model/labels"

	"github.com/palliumhq/pallium/authn/tenant"
	"github.com/palliumhq/pallium/backend/disk"
	"github.com/palliumhq/pallium/backend/series"
)

// frameTarget is the size in bytes at which a frame is cut, except in a huge
// series; see frameSize.
const frameTarget = 64 << 10

var errWriterDone = errors.New("pack writer was closed or aborted")

// Writer writes one pack, front to back. It holds one frame and one page in
// memory, whatever the size of the file, and the directory. It must be used by
// one goroutine. After an error only Abort may be called.
type Writer struct {
	path string
	opts Options
	out  *output
	err  error // the first error; sticky

	dir     directory
	section *section // being written, the last of dir.sections; nil before the first
	page    *pageBuilder
	frame   []byte // under construction, with space for the block header at its start
	target  int    // size in bytes at which the frame is cut

	prev       labels.Labels // last series of the section
	prevMetric string

	enc     *zstd.Encoder
	scratch []byte
	raw     []byte
}

// Create starts writing a pack to path, which must end in Suffix. Until Close
// completes the pack, its file is path + TemporarySuffix. Create makes missing
// directories.
func Create(path string, o Options) (*Writer, error) {
	if !strings.HasSuffix(path, Suffix) {
		return nil, fmt.Errorf("create pack %s: its name must end in %s", path, Suffix)
	}
	if o.ID.IsZero() {
		return nil, fmt.Errorf("create pack %s: Options.ID is not set", path)
	}
	w := &Writer{path: path, opts: o, page: newPageBuilder(), dir: directory{id: o.ID, level: o.Level, source: o.Source}}
	switch {
	case o.Encoder != nil:
		w.enc = o.Encoder.zstd
	case !o.plain:
		var err error
		if w.enc, err = newEncoder(); err != nil {
			return nil, err
		}
	}
	out, err := createOutput(path)
	if err != nil {
		return nil, fmt.Errorf("create pack: %w", err)
	}
	w.out = out
	w.frame = make([]byte, blockHeaderLen, frameTarget+frameTarget/4)
	if err := out.write(w.dir.appendHeader(nil)); err != nil {
		return nil, errors.Join(fmt.Errorf("create pack: %w", err), out.remove())
	}
	return w, nil
}

// StartSection starts the section of a tenant's UTC day. Sections must be in
// ascending order of tenant and then day, and none may be empty. md is the
// metadata of the section's metrics, in any order.
func (w *Writer) StartSection(t tenant.ID, day int64, md []series.MetricMetadata) error {
	if w.err != nil {
		return w.err
	}
	return w.keep(w.startSection(t, day, md))
}

func (w *Writer) startSection(t tenant.ID, day int64, md []series.MetricMetadata) error {
	if _, err := tenant.ParseID(string(t)); err != nil {
		return rejected(err)
	}
	if day < 0 || day >= maxDay {
		return rejected(fmt.Errorf("section of tenant %s: day %d is out of range", t, day))
	}
	if err := w.endSection(); err != nil {
		return err
	}
	if n := len(w.dir.sections); n > 0 {
		if s := &w.dir.sections[n-1]; !sectionsAscend(s.Tenant, s.Day, t, day) {
			return rejected(fmt.Errorf("section of tenant %s, day %d comes after that of tenant %s, day %d; they must ascend", t, day, s.Tenant,
				s.Day))
		}
	}
	w.dir.sections = append(w.dir.sections, section{
		SectionInfo: SectionInfo{Tenant: t, Day: day, Offset: w.out.off},
		firstFrame:  len(w.dir.frames), firstPage: len(w.dir.pages),
		firstTimes: len(w.dir.times), firstCell: len(w.dir.cells),
	})
	if w.opts.Deletions != nil {
		w.dir.sections[len(w.dir.sections)-1].Deletion = w.opts.Deletions(t)
	}
	w.section = &w.dir.sections[len(w.dir.sections)-1]
	w.prev, w.prevMetric = labels.EmptyLabels(), ""
	w.page.reset(day)
	w.out.crc = 0
	return w.writeMetadata(md)
}

func (w *Writer) writeMetadata(md []series.MetricMetadata) error {
	if len(md) == 0 {
		return nil
	}
	md = slices.Clone(md)
	slices.SortFunc(md, compareMetadata)
	md = slices.Compact(md)
	w.raw = binary.AppendUvarint(w.raw[:0], uint64(len(md)))
	for i := range md {
		for _, s := range []string{md[i].Metric, string(md[i].Type), md[i].Unit, md[i].Help} {
			w.raw = appendText(w.raw, s)
		}
	}
	if len(w.raw) > maxMetadataRaw {
		return rejected(fmt.Errorf("metadata has %d bytes, the maximum is %d", len(w.raw), maxMetadataRaw))
	}
	p, err := w.writeBlock(kindMetadata, w.raw, w.enc)
	w.section.metadata = p
	return err
}

func compareMetadata(a, b series.MetricMetadata) int {
	return cmp.Or(strings.Compare(a.Metric, b.Metric), strings.Compare(string(a.Type), string(b.Type)),
		strings.Compare(a.Unit, b.Unit), strings.Compare(a.Help, b.Help))
}

// Add writes a series with at least one chunk to the section. Series must be in
// ascending order of metric name and then labels.Compare; chunks must ascend in
// time, must not overlap and must be within the section's day. The writer does
// not retain the arguments.
func (w *Writer) Add(ls labels.Labels, chunks []series.Chunk) error {
	if w.err != nil {
		return w.err
	}
	return w.keep(w.add(ls, chunks))
}

func (w *Writer) add(ls labels.Labels, chunks []series.Chunk) error {
	if w.section == nil {
		return errors.New("add series: call StartSection first")
	}
	metric := ls.Get(model.MetricNameLabel)
	if err := w.checkSeries(metric, ls); err != nil {
		return rejected(fmt.Errorf("add series %s: %w", ls, err))
	}
	if err := checkChunks(chunks, w.section.Day); err != nil {
		return rejected(fmt.Errorf("add series %s: %w", ls, err))
	}
	if w.page.series > 0 && !w.page.fits(ls, len(chunks)) {
		if err := w.endPage(); err != nil {
			return err
		}
	}
	w.page.addLabels(metric, ls)
	w.target = frameSize(chunks)
	for i := range chunks {
		if err := w.addChunk(&chunks[i]); err != nil {
			return err
		}
	}
	w.prev, w.prevMetric = ls.Copy(), w.page.lastMetric
	return nil
}

// frameSize returns the size in bytes at which frames with the chunks of a
// series are cut. A page can refer to at most maxPageFrames frames, so a huge
// series needs larger frames.
func frameSize(chunks []series.Chunk) int {
	size := 0
	for i := range chunks {
		size += len(chunks[i].Data)
	}
	// Two consecutive frames together are larger than the target.
	return max(frameTarget, 2*size/(maxPageFrames/4))
}

func (w *Writer) addChunk(c *series.Chunk) error {
	if n := len(w.frame); n > blockHeaderLen && n+len(c.Data) > w.target {
		if err := w.endFrame(); err != nil {
			return err
		}
	}
	codec, _ := codecOf(c.Encoding)
	w.page.addChunk(c, codec, len(w.frame)-blockHeaderLen)
	w.frame = append(w.frame, c.Data...)
	w.section.Samples += int64(c.Samples)
	return nil
}

// endFrame writes the frame under construction.
func (w *Writer) endFrame() error {
	if len(w.frame) == blockHeaderLen {
		return nil
	}
	putBlockHeader(w.frame, kindFrame, compressionNone, len(w.frame)-blockHeaderLen, len(w.frame)-blockHeaderLen)
	p, err := w.writeFramed(w.frame)
	if err != nil {
		return err
	}
	chunks := len(w.page.chunks)
	for _, f := range w.page.frames {
		chunks -= f.chunks
	}
	w.page.frames = append(w.page.frames, frameRef{off: p.off, length: p.length, chunks: chunks})
	w.dir.frames = append(w.dir.frames, frameInfo{p})
	w.section.frames++
	if cap(w.frame) > 4*frameTarget {
		w.frame = make([]byte, blockHeaderLen, 2*frameTarget)
	}
	w.frame = w.frame[:blockHeaderLen]
	return nil
}

// endPage writes the page under construction after its last frame.
func (w *Writer) endPage() error {
	if w.page.series == 0 {
		return nil
	}
	if err := w.endFrame(); err != nil {
		return err
	}
	raw, err := w.page.encode(w.raw[:0])
	if err != nil {
		return rejected(err)
	}
	w.raw = raw
	p, err := w.writeBlock(kindPage, raw, w.enc)
	if err != nil {
		return err
	}
	info := pageInfo{place: p, series: w.page.series, chunks: len(w.page.chunks),
		min: w.page.chunks[0].min, max: w.page.chunks[0].max, first: w.page.firstMetric, last: w.page.lastMetric}
	for i := range w.page.chunks {
		info.min, info.max = min(info.min, w.page.chunks[i].min), max(info.max, w.page.chunks[i].max)
	}
	w.dir.pages = append(w.dir.pages, info)
	w.section.count(&info)
	w.page.reset(w.section.Day)
	return nil
}

// count adds a page to the counts and times of its section.
func (s *section) count(p *pageInfo) {
	start := s.Day * series.DayMillis
	lo, hi := start+int64(p.min), start+int64(p.max)
	if s.pages > 0 {
		lo, hi = min(lo, s.MinTime), max(hi, s.MaxTime)
	}
	s.MinTime, s.MaxTime = lo, hi
	s.Series += p.series
	s.Chunks += p.chunks
	s.pages++
}

func (w *Writer) endSection() error {
	if w.section == nil {
		return nil
	}
	if err := w.endPage(); err != nil {
		return err
	}
	s := w.section
	if s.Series == 0 {
		return rejected(fmt.Errorf("section of tenant %s, day %d has no series", s.Tenant, s.Day))
	}
	s.Length, s.CRC = w.out.off-s.Offset, w.out.crc
	w.section = nil
	return nil
}

// writeBlock writes raw as a block, compressed when that is shorter.
func (w *Writer) writeBlock(kind blockKind, raw []byte, enc *zstd.Encoder) (place, error) {
	w.scratch = appendBlock(w.scratch[:0], kind, raw, enc)
	p := place{off: w.out.off, length: uint32(len(w.scratch))}
	return p, w.out.write(w.scratch)
}

// writeFramed writes an uncompressed block; b is its header and payload.
func (w *Writer) writeFramed(b []byte) (place, error) {
	p := place{off: w.out.off, length: uint32(len(b) + 4)}
	if err := w.out.write(b); err != nil {
		return p, err
	}
	w.scratch = binary.BigEndian.AppendUint32(w.scratch[:0], disk.Checksum(b))
	return p, w.out.write(w.scratch)
}

// Close completes the pack: it writes directory and trailer, syncs the file,
// reads the directory back to verify it, and only then renames the file to its
// final name.
func (w *Writer) Close() (Info, error) {
	if w.err != nil {
		return Info{}, w.err
	}
	if err := w.keep(w.finish()); err != nil {
		return Info{}, err
	}
	w.err = errWriterDone
	return w.dir.info(w.out.off), nil
}

func (w *Writer) finish() error {
	if err := w.end(); err != nil {
		return err
	}
	return w.out.publish(w.path, func(src Source) error { return w.verify(src) })
}

// end writes what follows the last series: directory and trailer.
func (w *Writer) end() error {
	if err := w.endSection(); err != nil {
		return err
	}
	off := w.out.off
	b := w.dir.append(nil)
	if uint64(len(b)) > 1<<32-1 {
		return rejected(fmt.Errorf("directory has %d bytes, more than 4 GiB: the pack has too many sections", len(b)))
	}
	return w.out.write(appendTrailer(b, off, b))
}

// verify reads the directory back and compares it with the one in memory.
func (w *Writer) verify(src Source) error {
	r, err := Open(src)
	if err == nil && !r.dir.equal(&w.dir) {
		err = fmt.Errorf("%w: the directory read back differs from the one that was written", ErrCorrupt)
	}
	if err != nil {
		return rejected(err)
	}
	return nil
}

// Abort discards the pack and removes its file. It does nothing after a
// successful Close.
func (w *Writer) Abort() error {
	if errors.Is(w.err, errWriterDone) {
		return nil
	}
	w.err = errWriterDone
	return w.out.remove()
}

// keep stores the first error, which every later call returns: the file's
// content after an error is undefined.
func (w *Writer) keep(err error) error {
	if err != nil {
		err = fmt.Errorf("write pack %s: %w", w.path, err)
		w.err = fmt.Errorf("pack writer is unusable after an error: %w", err)
	}
	return err
}
