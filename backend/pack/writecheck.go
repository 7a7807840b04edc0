package pack

import (
	"cmp"
	"encoding/binary"
	"errors"
	"fmt"
	"strings"

	"github.com/prometheus/prometheus/model/labels"

	"github.com/palliumhq/pallium/backend/series"
)

func (w *Writer) checkSeries(metric string, ls labels.Labels) error {
	if err := ls.Validate(checkLabel); err != nil {
		return err
	}
	if w.page.series == 0 && w.section.Series == 0 {
		return nil
	}
	c := cmp.Or(strings.Compare(w.prevMetric, metric), labels.Compare(w.prev, ls))
	if c == 0 {
		return errors.New("it was added before")
	}
	if c > 0 {
		return fmt.Errorf("it comes after %s; series must ascend by metric and labels", w.prev)
	}
	return nil
}

func checkLabel(l labels.Label) error {
	if l.Name == "" || l.Value == "" {
		return fmt.Errorf("label name %q or value %q is empty; neither may be empty", l.Name, l.Value)
	}
	return nil
}

func checkChunks(chunks []series.Chunk, day int64) error {
	if len(chunks) == 0 {
		return errors.New("it has no chunks")
	}
	for i := range chunks {
		c := &chunks[i]
		switch _, ok := codecOf(c.Encoding); {
		case !ok:
			return fmt.Errorf("chunk encoding %s cannot be stored in a pack", c.Encoding)
		case c.MinTime > c.MaxTime || series.Day(c.MinTime) != day || series.Day(c.MaxTime) != day:
			return fmt.Errorf("chunk from %d to %d is not within the section's day %d", c.MinTime, c.MaxTime, day)
		case i > 0 && chunks[i-1].MaxTime >= c.MinTime:
			return fmt.Errorf("chunk from %d to %d does not come after the one from %d to %d", c.MinTime, c.MaxTime, chunks[i-1].MinTime,
				chunks[i-1].MaxTime)
		case len(c.Data) > maxFrame:
			return fmt.Errorf("chunk has %d bytes, the maximum is %d", len(c.Data), maxFrame)
		}
		if err := checkData(c); err != nil {
			return err
		}
	}
	return nil
}

// checkData compares a chunk's sample count with the count in the first two
// bytes of its data.
func checkData(c *series.Chunk) error {
	if len(c.Data) < 2 || c.Samples < 1 || c.Samples > maxChunkCount || int(binary.BigEndian.Uint16(c.Data)) != c.Samples {
		return fmt.Errorf("chunk starting at %d with %d bytes does not have the expected %d samples", c.MinTime, len(c.Data), c.Samples)
	}
	return nil
}
