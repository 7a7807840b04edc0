package ingester

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"math"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/tsdb/chunkenc"
	"github.com/prometheus/prometheus/tsdb/encoding"

	"github.com/palliumhq/pallium/authn/tenant"
	"github.com/palliumhq/pallium/backend/disk"
	"github.com/palliumhq/pallium/backend/series"
	"github.com/palliumhq/pallium/backend/store"
)

// Constants of the files of series set aside; docs/format/aside.md describes the
// format.
const (
	asideMagic      = "PLASIDE1"
	asideSuffix     = ".aside"
	asideFrameBytes = 1 << 20 // maximum data of a frame with more than one chunk
	asideMaxFrame   = 1 << 30 // largest length of a frame that is accepted
)

// errAside is wrapped by all errors of files that cannot be decoded.
var errAside = errors.New("damaged file of a series set aside")

// asideHeader is the first frame of a file, which has the samples of one series in
// one window.
type asideHeader struct {
	tenant           tenant.ID
	ingester         string
	window           store.Window
	deletion         uint64 // number of the last deletion of series that was applied
	since            int64  // Unix milliseconds
	minTime, maxTime int64  // Unix milliseconds, inclusive
	chunks, samples  int
	reason           string
	labels           labels.Labels
}

// asideName returns the path of a file, without its suffix, relative to the
// directory of files set aside.
func asideName(t tenant.ID, w store.Window, ls labels.Labels) string {
	sum := sha256.Sum256(ls.Bytes(nil))
	return filepath.Join(t.PathElement(), fmt.Sprintf("%d-%02d-%s", w.Day, w.Number, hex.EncodeToString(sum[:16])))
}

// parseAsidePath parses tenant and window from the path of a file relative to the
// directory of files set aside.
func parseAsidePath(rel string) (tenant.ID, store.Window, error) {
	dir, name := filepath.Split(rel)
	text, err := url.PathUnescape(filepath.Clean(dir))
	if err != nil {
		return "", store.Window{}, err
	}
	t, err := tenant.ParseID(text)
	if err != nil {
		return "", store.Window{}, err
	}
	// The day of samples before 1970, which logs of older versions may contain, is negative.
	positive, negative := strings.CutPrefix(name, "-")
	parts := strings.SplitN(positive, "-", 3)
	if len(parts) != 3 {
		return "", store.Window{}, errors.New("file name does not have the form DAY-WINDOW-HASH")
	}
	day, dayErr := strconv.ParseInt(parts[0], 10, 64)
	if negative {
		day = -day
	}
	window, err := strconv.Atoi(parts[1])
	if dayErr != nil || err != nil || window < 0 || window > 11 {
		return "", store.Window{}, errors.New("file name does not have the form DAY-WINDOW-HASH")
	}
	return t, store.Window{Day: day, Number: window}, nil
}

// encodeAside encodes a file. It sets the counts and times of the header.
func encodeAside(h *asideHeader, chunks []series.Chunk) []byte {
	h.chunks, h.samples, h.minTime, h.maxTime = len(chunks), 0, math.MaxInt64, math.MinInt64
	for i := range chunks {
		h.samples += chunks[i].Samples
		h.minTime, h.maxTime = min(h.minTime, chunks[i].MinTime), max(h.maxTime, chunks[i].MaxTime)
	}
	head := encoding.Encbuf{}
	head.PutUvarintStr(string(h.tenant))
	head.PutUvarintStr(h.ingester)
	head.PutVarint64(h.window.Day)
	head.PutUvarint(h.window.Number)
	head.PutUvarint64(h.deletion)
	head.PutVarint64(h.since)
	head.PutVarint64(h.minTime)
	head.PutVarint64(h.maxTime)
	head.PutUvarint(h.chunks)
	head.PutUvarint(h.samples)
	head.PutUvarintStr(h.reason)
	head.PutUvarint(h.labels.Len())
	h.labels.Range(func(l labels.Label) {
		head.PutUvarintStr(l.Name)
		head.PutUvarintStr(l.Value)
	})
	b := appendAsideFrame([]byte(asideMagic), head.B)
	for len(chunks) > 0 {
		n, size := 0, 0
		for n < len(chunks) && (n == 0 || size+len(chunks[n].Data) <= asideFrameBytes) {
			size += len(chunks[n].Data)
			n++
		}
		frame := encoding.Encbuf{}
		frame.PutUvarint(n)
		for i := range chunks[:n] {
			c := &chunks[i]
			frame.PutByte(byte(c.Encoding))
			frame.PutVarint64(c.MinTime)
			frame.PutVarint64(c.MaxTime - c.MinTime)
			frame.PutUvarint(c.Samples)
			frame.PutUvarint(len(c.Data))
			frame.PutBytes(c.Data)
		}
		b = appendAsideFrame(b, frame.B)
		chunks = chunks[n:]
	}
	return b
}

func appendAsideFrame(b, payload []byte) []byte {
	b = binary.BigEndian.AppendUint32(b, uint32(len(payload)))
	b = append(b, payload...)
	return binary.BigEndian.AppendUint32(b, disk.Checksum(payload))
}

// asideReader reads a file sequentially.
type asideReader struct {
	r    io.Reader
	left int64 // unread bytes of the file
}

// frame reads the next frame. It returns io.EOF at the end of the file.
func (a *asideReader) frame() ([]byte, error) {
	if a.left == 0 {
		return nil, io.EOF
	}
	var head [4]byte
	if err := a.read(head[:]); err != nil {
		return nil, err
	}
	n := int64(binary.BigEndian.Uint32(head[:]))
	if n > asideMaxFrame || n+4 > a.left {
		return nil, fmt.Errorf("%w: frame length %d is too large, %d bytes remain", errAside, n, a.left)
	}
	b := make([]byte, n+4)
	if err := a.read(b); err != nil {
		return nil, err
	}
	payload := b[:n:n]
	if got, want := disk.Checksum(payload), binary.BigEndian.Uint32(b[n:]); got != want {
		return nil, fmt.Errorf("%w: frame checksum is %08x, want %08x", errAside, got, want)
	}
	return payload, nil
}

func (a *asideReader) read(b []byte) error {
	if int64(len(b)) > a.left {
		return fmt.Errorf("%w: file is truncated", errAside)
	}
	a.left -= int64(len(b))
	if _, err := io.ReadFull(a.r, b); err != nil {
		return fmt.Errorf("read the file of a series set aside: %w", err)
	}
	return nil
}

// header reads the magic and the header.
func (a *asideReader) header() (asideHeader, error) {
	var magic [len(asideMagic)]byte
	if err := a.read(magic[:]); err != nil {
		return asideHeader{}, err
	}
	if string(magic[:]) != asideMagic {
		return asideHeader{}, fmt.Errorf("%w: magic is %q, this version reads %q", errAside, magic[:], asideMagic)
	}
	b, err := a.frame()
	if err != nil {
		return asideHeader{}, fmt.Errorf("%w: header: %w", errAside, err)
	}
	return decodeAsideHeader(b)
}

func decodeAsideHeader(b []byte) (asideHeader, error) {
	d := encoding.Decbuf{B: b}
	h := asideHeader{}
	id, err := tenant.ParseID(text(&d))
	h.tenant, h.ingester = id, text(&d)
	h.window.Day = d.Varint64()
	window := d.Uvarint64()
	h.deletion, h.since = d.Uvarint64(), d.Varint64()
	h.minTime, h.maxTime = d.Varint64(), d.Varint64()
	chunks, samples := d.Uvarint64(), d.Uvarint64()
	h.reason = text(&d)
	builder := labels.NewScratchBuilder(16)
	for left := count(&d, 2); left > 0; left-- {
		name, value := text(&d), text(&d)
		if n := max(len(name), len(value)); n > maxLabelBytes {
			return h, fmt.Errorf("%w: header: label has %d bytes; the limit is %d", errAside, n, maxLabelBytes)
		}
		builder.Add(name, value)
	}
	switch {
	case d.Err() != nil || err != nil:
		return h, fmt.Errorf("%w: header: %w", errAside, errors.Join(d.Err(), err))
	case window > 11 || chunks > math.MaxInt32 || samples > math.MaxInt64>>1 || h.minTime > h.maxTime || d.Len() != 0:
		return h, fmt.Errorf("%w: header: invalid window, counts or times, or trailing bytes", errAside)
	}
	h.window.Number, h.chunks, h.samples, h.labels = int(window), int(chunks), int(samples), builder.Labels()
	return h, nil
}

// chunks reads all frames after the header h.
func (a *asideReader) chunks(h *asideHeader) ([]series.Chunk, error) {
	var out []series.Chunk
	samples := 0
	for {
		b, err := a.frame()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return nil, err
		}
		d := encoding.Decbuf{B: b}
		for n := count(&d, 5); n > 0; n-- {
			c := series.Chunk{Encoding: chunkenc.Encoding(d.Byte()), MinTime: d.Varint64()}
			c.MaxTime = c.MinTime + d.Varint64()
			c.Samples = int(min(d.Uvarint64(), math.MaxInt32))
			size := count(&d, 1)
			c.Data = d.B[:size:size]
			d.B = d.B[size:]
			if d.Err() == nil && !validAside(&c, h) {
				return nil, fmt.Errorf("%w: invalid chunk from %d to %d with encoding %d", errAside, c.MinTime, c.MaxTime, c.Encoding)
			}
			samples += c.Samples
			out = append(out, c)
		}
		if d.Err() != nil || d.Len() != 0 {
			return nil, fmt.Errorf("%w: invalid frame of chunks", errAside)
		}
	}
	if len(out) != h.chunks || samples != h.samples {
		return nil, fmt.Errorf("%w: file has %d chunks and %d samples, header says %d and %d", errAside, len(out), samples, h.chunks, h.samples)
	}
	return out, nil
}

func validAside(c *series.Chunk, h *asideHeader) bool {
	switch c.Encoding {
	case chunkenc.EncXOR, chunkenc.EncHistogram, chunkenc.EncFloatHistogram:
	default:
		return false
	}
	return c.MinTime >= h.minTime && c.MaxTime <= h.maxTime && c.MinTime <= c.MaxTime &&
		c.Samples > 0 && len(c.Data) >= 2
}

// openAside opens a file and reads its header.
func openAside(path string) (*os.File, *asideReader, asideHeader, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, nil, asideHeader{}, err
	}
	st, err := f.Stat()
	if err != nil {
		return nil, nil, asideHeader{}, errors.Join(err, f.Close())
	}
	r := &asideReader{r: f, left: st.Size()}
	h, err := r.header()
	if err != nil {
		return nil, nil, h, errors.Join(fmt.Errorf("%s: %w", path, err), f.Close())
	}
	return f, r, h, nil
}

// readAside reads a file. It reads the chunks only if the function `want` is not nil and
// returns true for the header.
func readAside(path string, want func(*asideHeader) bool) (asideHeader, []series.Chunk, error) {
	f, r, h, err := openAside(path)
	if err != nil {
		return h, nil, err
	}
	var chunks []series.Chunk
	if want != nil && want(&h) {
		if chunks, err = r.chunks(&h); err != nil {
			err = fmt.Errorf("%s: %w", path, err)
		}
	}
	return h, chunks, errors.Join(err, f.Close())
}
