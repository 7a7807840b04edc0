package integrations

import (
	"bufio"
	"crypto/hmac"
	"crypto/md5"
	"crypto/tls"
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"net"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
)

// mailReceived is an email that a server received.
type mailReceived struct {
	hello, auth, from string
	to                []string
	data              string
	tls               bool
}

// smtpOptions are the extensions and faults of a server. The zero value accepts emails without TLS and authentication.
type smtpOptions struct {
	starttls, implicit bool
	auth               string // mechanisms that are offered
	dropAt             string // command at which the connection is closed
	silentAt           string // command that is never answered
	rejectAt           string // command that is answered with 550
	endlessAt          string // command whose response never ends
}

// smtpServer is a small SMTP server.
type smtpServer struct {
	smtpOptions
	address string
	cert    tls.Certificate

	mu    sync.Mutex
	mails []mailReceived
	conns sync.WaitGroup
}

func startSMTP(t *testing.T, o smtpOptions) *smtpServer {
	t.Helper()
	server := &smtpServer{smtpOptions: o}
	secure := httptest.NewTLSServer(nil) // only its certificate is used
	server.cert = secure.TLS.Certificates[0]
	secure.Close()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	server.address = l.Addr().String()
	server.conns.Go(func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			server.conns.Go(func() { server.serve(conn) })
		}
	})
	t.Cleanup(func() {
		l.Close()
		server.conns.Wait()
	})
	return server
}

func (s *smtpServer) got() []mailReceived {
	s.mu.Lock()
	defer s.mu.Unlock()
	return append([]mailReceived(nil), s.mails...)
}

func (s *smtpServer) config() *tls.Config {
	return &tls.Config{Certificates: []tls.Certificate{s.cert}}
}

// session is the state of one connection.
type session struct {
	conn net.Conn
	r    *bufio.Reader
	mail mailReceived
}

func (c *session) say(format string, args ...any) { fmt.Fprintf(c.conn, format+"\r\n", args...) }

func (c *session) line() (string, bool) {
	line, err := c.r.ReadString('\n')
	return strings.TrimRight(line, "\r\n"), err == nil
}

// ask sends a challenge and returns the client's response.
func (c *session) ask(question string) string {
	c.say("334 %s", base64.StdEncoding.EncodeToString([]byte(question)))
	line, _ := c.line()
	answer, _ := base64.StdEncoding.DecodeString(line)
	return string(answer)
}

func (s *smtpServer) serve(conn net.Conn) {
	defer func() { conn.Close() }()
	c := &session{conn: conn}
	if s.implicit {
		c.conn, c.mail.tls = tls.Server(conn, s.config()), true
	}
	c.r = bufio.NewReader(c.conn)
	if s.silentAt == "CONNECT" {
		_, _ = c.line()
		return
	}
	c.say("220 mail.example.com")
	for {
		line, ok := c.line()
		if !ok || !s.command(c, line) {
			return
		}
	}
}

// command responds to one command, and reports whether the session continues.
func (s *smtpServer) command(c *session, line string) bool {
	word, rest, _ := strings.Cut(line, " ")
	switch word {
	case s.dropAt:
		return false
	case s.silentAt:
		_, _ = c.line()
		return false
	case s.rejectAt:
		c.say("550 %s is rejected", word)
		return true
	case s.endlessAt:
		for {
			if _, err := fmt.Fprint(c.conn, "250-more\r\n"); err != nil {
				return false
			}
		}
	}
	switch word {
	case "EHLO":
		c.mail.hello = rest
		c.say("250-mail.example.com")
		if s.starttls && !c.mail.tls {
			c.say("250-STARTTLS")
		}
		if s.auth != "" {
			c.say("250-AUTH %s", s.auth)
		}
		c.say("250 8BITMIME")
	case "STARTTLS":
		c.say("220 go")
		c.conn, c.mail.tls = tls.Server(c.conn, s.config()), true
		c.r = bufio.NewReader(c.conn)
	case "AUTH":
		c.mail.auth = authenticate(c, rest)
		c.say("235 ok")
	case "MAIL":
		c.mail.from = rest
		c.say("250 ok")
	case "RCPT":
		c.mail.to = append(c.mail.to, rest)
		c.say("250 ok")
	case "DATA":
		c.say("354 go")
		for line, ok := c.line(); line != "."; line, ok = c.line() {
			if !ok {
				return false
			}
			c.mail.data += line + "\n"
		}
		s.mu.Lock()
		s.mails = append(s.mails, c.mail)
		s.mu.Unlock()
		c.say("250 ok")
	case "QUIT":
		c.say("221 bye")
		return false
	default:
		c.say("250 ok")
	}
	return true
}

// authenticate runs an authentication mechanism, and returns the client's responses. A digest is replaced by whether it is
// correct.
func authenticate(c *session, rest string) string {
	mechanism, first, _ := strings.Cut(rest, " ")
	switch mechanism {
	case "PLAIN":
		text, _ := base64.StdEncoding.DecodeString(first)
		return strings.ReplaceAll(string(text), "\x00", "|")
	case "LOGIN":
		return c.ask("Username:") + "|" + c.ask("Password:")
	case "CRAM-MD5":
		h := hmac.New(md5.New, []byte("cram-secret"))
		h.Write([]byte("<challenge@example.com>"))
		user, digest, _ := strings.Cut(c.ask("<challenge@example.com>"), " ")
		return fmt.Sprintf("%s|%t", user, digest == hex.EncodeToString(h.Sum(nil)))
	}
	return mechanism
}
