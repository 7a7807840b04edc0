package integrations

import (
	"bytes"
	"context"
	"crypto/rand"
	"fmt"
	"mime"
	"mime/multipart"
	"mime/quotedprintable"
	"net/mail"
	"net/textproto"
	"strings"
	"time"

	"github.com/prometheus/alertmanager/alert"
	"github.com/prometheus/alertmanager/notify"
	"github.com/prometheus/alertmanager/template"
)

// message is a rendered email with its envelope.
type message struct {
	from string
	to   []string
	data []byte
}

// render executes the templates of an email.
func (n *emailNotifier) render(ctx context.Context, alerts []*alert.Alert) (*message, error) {
	data := notify.GetTemplateData(ctx, n.tmpl, alerts, n.logger)
	text := func(field, t string) (string, error) {
		s, err := n.tmpl.ExecuteTextString(t, data)
		if err != nil {
			return "", fmt.Errorf("execute the template of %s: %w", field, err)
		}
		return s, nil
	}
	m := &message{}
	from, err := text("from", n.conf.From)
	if err != nil {
		return nil, err
	}
	sender, err := parseOne(from)
	if err != nil {
		return nil, fmt.Errorf("from: %w", err)
	}
	m.from = sender.Address
	to, err := text("to", n.conf.To)
	if err != nil {
		return nil, err
	}
	recipients, err := mail.ParseAddressList(to)
	if err != nil {
		return nil, fmt.Errorf("to: %w", err)
	}
	for _, r := range recipients {
		m.to = append(m.to, r.Address)
	}
	buf := &bytes.Buffer{}
	for _, h := range n.headers {
		value, err := text("header "+h.name, h.value)
		if err != nil {
			return nil, err
		}
		writeHeader(buf, h.name, value)
	}
	if err := n.writeIdentity(ctx, buf, m.from); err != nil {
		return nil, err
	}
	if err := n.writeBody(buf, data); err != nil {
		return nil, err
	}
	m.data = buf.Bytes()
	return m, nil
}

// writeHeader writes a header. It encodes a value that contains characters other than printable ASCII, so that a line break,
// for example from a label of an alert, cannot start another header.
func writeHeader(buf *bytes.Buffer, name, value string) {
	fmt.Fprintf(buf, "%s: %s\r\n", name, mime.QEncoding.Encode("utf-8", value))
}

// writeIdentity writes the headers that identify the message and its thread.
func (n *emailNotifier) writeIdentity(ctx context.Context, buf *bytes.Buffer, from string) error {
	if !n.hasHeader("Message-Id") {
		domain := from[strings.LastIndexByte(from, '@')+1:]
		writeHeader(buf, "Message-Id", fmt.Sprintf("<%d.%s@%s>", time.Now().UnixNano(), rand.Text(), domain))
	}
	if !n.hasHeader("Date") {
		writeHeader(buf, "Date", time.Now().Format(time.RFC1123Z))
	}
	if !n.conf.Threading.Enabled {
		return nil
	}
	key, err := notify.ExtractGroupKey(ctx)
	if err != nil {
		return err
	}
	day := ""
	if n.conf.Threading.ThreadByDate != "none" {
		day = time.Now().Format(time.DateOnly)
	}
	// No message has this ID. It is the same as in Alertmanager, so that threads continue after a migration.
	thread := fmt.Sprintf("<alert-%s-%s@alertmanager>", key.Hash()[:16], day)
	writeHeader(buf, "References", thread)
	writeHeader(buf, "In-Reply-To", thread)
	return nil
}

func (n *emailNotifier) hasHeader(name string) bool {
	for _, h := range n.headers {
		if strings.EqualFold(h.name, name) {
			return true
		}
	}
	return false
}

// writeBody writes the text part and then the HTML part: mail clients prefer the last alternative (RFC 2046, section 5.1.4).
func (n *emailNotifier) writeBody(buf *bytes.Buffer, data *template.Data) error {
	w := multipart.NewWriter(buf)
	writeHeader(buf, "Content-Type", "multipart/alternative; boundary="+w.Boundary())
	buf.WriteString("MIME-Version: 1.0\r\n\r\n")
	for _, part := range []struct {
		name, kind, text string
		execute          func(string, any) (string, error)
	}{
		{"text", "text/plain", n.conf.Text, n.tmpl.ExecuteTextString},
		{"html", "text/html", n.conf.HTML, n.tmpl.ExecuteHTMLString},
	} {
		if part.text == "" {
			continue
		}
		body, err := part.execute(part.text, data)
		if err != nil {
			return fmt.Errorf("execute the template of %s: %w", part.name, err)
		}
		if err := writePart(w, part.kind, body); err != nil {
			return fmt.Errorf("write the part %s: %w", part.name, err)
		}
	}
	return w.Close()
}

func writePart(w *multipart.Writer, kind, body string) error {
	part, err := w.CreatePart(textproto.MIMEHeader{
		"Content-Transfer-Encoding": {"quoted-printable"},
		"Content-Type":              {kind + "; charset=UTF-8"},
	})
	if err != nil {
		return err
	}
	q := quotedprintable.NewWriter(part)
	if _, err := q.Write([]byte(body)); err != nil {
		return err
	}
	return q.Close()
}
