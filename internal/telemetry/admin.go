package telemetry

import (
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/pprof"
	"time"

	"github.com/prometheus/client_golang/prometheus/promhttp"
	"golang.org/x/net/netutil"

	"github.com/walsvc/walsvc/internal/limits"
	"github.com/walsvc/walsvc/wal"
)

// Admin answers over HTTP. Make one with Serve.
type Admin struct {
	server http.Server
	served chan error
}

// Serve answers on l until Stop. Profiles are there only if l is on loopback.
// What goes wrong while it answers is logged to log.
func (m *Metrics) Serve(l net.Listener, log *slog.Logger) *Admin {
	a := &Admin{served: make(chan error, 1)}
	a.server = http.Server{
		Handler:        m.handler(isLoopback(l.Addr())),
		ErrorLog:       slog.NewLogLogger(log.Handler(), slog.LevelWarn),
		ReadTimeout:    limits.AdminTimeout,
		WriteTimeout:   limits.AdminTimeout,
		IdleTimeout:    limits.AdminTimeout,
		MaxHeaderBytes: limits.MaxAdminHeaderBytes,
	}
	go func() { a.served <- a.server.Serve(netutil.LimitListener(l, limits.MaxAdminConnections)) }()
	return a
}

// Stop closes the listener, and every connection: a scrape repeats itself, and
// a profile that is being taken is not worth waiting for.
func (a *Admin) Stop() error {
	err := a.server.Close()
	if served := <-a.served; !errors.Is(served, http.ErrServerClosed) {
		err = errors.Join(err, served)
	}
	if err != nil {
		return fmt.Errorf("stop serving metrics: %w", err)
	}
	return nil
}

// isLoopback reports whether only this machine can reach the address.
func isLoopback(a net.Addr) bool {
	tcp, ok := a.(*net.TCPAddr)
	return ok && tcp.IP.IsLoopback()
}

func (m *Metrics) handler(profiles bool) http.Handler {
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", promhttp.HandlerFor(m.registry, promhttp.HandlerOpts{
		MaxRequestsInFlight: limits.MaxScrapes,
	}))
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) {
		answer(w, http.StatusOK, "alive")
	})
	mux.HandleFunc("GET /readyz", func(w http.ResponseWriter, _ *http.Request) {
		code, text := m.ready()
		answer(w, code, text)
	})
	if profiles {
		mux.HandleFunc("GET /debug/pprof/", patient(pprof.Index))
		mux.HandleFunc("GET /debug/pprof/cmdline", pprof.Cmdline)
		mux.HandleFunc("GET /debug/pprof/profile", patient(pprof.Profile))
		mux.HandleFunc("GET /debug/pprof/symbol", pprof.Symbol)
		mux.HandleFunc("GET /debug/pprof/trace", patient(pprof.Trace))
	}
	return mux
}

// patient lets a profile take as long as it was asked to. Package pprof sees to the
// time for writing it; that for reading the request would end the request's context.
func patient(profile http.HandlerFunc) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		if r.ContentLength == 0 { // a body has yet to come, and may not
			_ = http.NewResponseController(w).SetReadDeadline(time.Time{}) // a recorder in tests has none
		}
		profile(w, r)
	}
}

// ready says whether appends are taken, and if not, why.
func (m *Metrics) ready() (code int, text string) {
	s, ok := m.state()
	switch {
	case !ok:
		return http.StatusServiceUnavailable, "recovering"
	case s.State != wal.Serving:
		return http.StatusServiceUnavailable, s.Detail
	}
	return http.StatusOK, "ready"
}

func answer(w http.ResponseWriter, code int, text string) {
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	w.WriteHeader(code)
	_, _ = io.WriteString(w, text+"\n") // who went away does not want to know
}
