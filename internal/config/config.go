package config

import (
	"log/slog"
	"path/filepath"
	"time"

	"github.com/spf13/pflag"

	"github.com/walsvc/walsvc/internal/disk"
	"github.com/walsvc/walsvc/internal/limits"
)

// Config is what walsvc is told. Make one with Load, which checks it.
type Config struct {
	// Data is the volume's directory. The default is made as needed. One that
	// was named but is missing or empty is refused without Create: a forgotten
	// mount must not look like a new volume.
	Data string `yaml:"data" json:"data"`
	// Create lets a volume be made in a named directory that is missing or empty.
	Create bool `yaml:"create" json:"create"`

	// Socket is the Unix socket to serve on, made with mode 0600; at most 107
	// bytes. Empty means walsvc.sock in Data, "none" no socket.
	Socket string `yaml:"socket" json:"socket"`
	// Listen is a TCP address to serve on besides, as host:port; empty means
	// none. Beyond loopback it takes TLS with TLSClientCA, or TLSAnyClient.
	Listen string `yaml:"listen" json:"listen"`
	// TLSCert and TLSKey are PEM files; with them, TCP speaks TLS 1.3.
	TLSCert string `yaml:"tls-cert" json:"tls-cert"`
	TLSKey  string `yaml:"tls-key" json:"tls-key"`
	// TLSClientCA is a PEM file of authorities, one of which must have signed
	// each client's certificate. Empty means that no client is asked for one.
	TLSClientCA string `yaml:"tls-client-ca" json:"tls-client-ca"`
	// TLSAnyClient says that beyond loopback, too, clients need no certificate:
	// whoever reaches the address can read, append and delete. It is for networks
	// that keep others out by themselves, and does not go with TLSClientCA.
	TLSAnyClient bool `yaml:"tls-any-client" json:"tls-any-client"`

	// Codec compresses blocks on disk: none, s2, zstd, or auto, which measures
	// and compresses when that pays for itself.
	Codec string `yaml:"codec" json:"codec"`
	// SegmentSize is the size of segment files. It counts when the volume is
	// made and not afterwards; a multiple of 4 KiB from 64 KiB to 1 GiB.
	SegmentSize Size `yaml:"segment-size" json:"segment-size"`
	// Direct is which writes bypass the page cache, where the file system takes
	// that: auto, those that nobody reads back as they come; always; or never.
	Direct string `yaml:"direct" json:"direct"`
	// PrepareRate bounds the bytes per second that preparing segments in the
	// background may write; "unlimited" does not. Too low and appends wait for
	// space; too high and they wait for the disk.
	PrepareRate Size `yaml:"prepare-rate" json:"prepare-rate"`
	// KeepAwake keeps the machine's processors from halting while frames become
	// durable, see package internal/awake. It takes the right to write
	// /dev/cpu_dma_latency, and power.
	KeepAwake bool `yaml:"keep-awake" json:"keep-awake"`
	// Processors is on how many processors the service runs: auto, on one while that
	// carries more than all do, see package internal/processors; or all.
	Processors string `yaml:"processors" json:"processors"`

	// Admin is a TCP address, as host:port, for metrics, health and profiles over
	// HTTP; empty means none. It asks nobody who they are. Profiles are there on
	// loopback only.
	Admin string `yaml:"admin" json:"admin"`

	// DrainDeadline bounds an orderly stop; then connections are cut. It should
	// be shorter than what the service manager waits before it kills.
	DrainDeadline time.Duration `yaml:"drain-deadline" json:"drain-deadline"`
	// MaxConnections bounds the connections at one time; further ones are closed.
	MaxConnections int `yaml:"max-connections" json:"max-connections"`
	// AdminRate bounds the calls per second, over all clients, that create, list
	// or look at things; 0 does not. Appends and reads are not among them:
	// back-pressure bounds those.
	AdminRate int `yaml:"admin-rate" json:"admin-rate"`

	// LogLevel is the least severe that is logged: debug, info, warn or error.
	LogLevel slog.Level `yaml:"log-level" json:"log-level"`
	// LogFormat is text or json. Logs go to standard error.
	LogFormat string `yaml:"log-format" json:"log-format"`

	// DataNamed says that somebody named Data.
	DataNamed bool `yaml:"-" json:"-"`
}

// DefaultData is the volume's directory if nobody names one.
const DefaultData = "./walsvc-data"

// ProcessorsAuto and ProcessorsAll are what Processors may be.
const (
	ProcessorsAuto = "auto"
	ProcessorsAll  = "all"
)

// NoSocket as Socket means none.
const NoSocket = "none"

// socketName is the socket's name in Data.
const socketName = "walsvc.sock"

// Defaults returns the settings of a walsvc that was told nothing.
func Defaults() Config {
	return Config{
		Data:           DefaultData,
		Codec:          "auto",
		Direct:         disk.DirectAuto.String(),
		SegmentSize:    limits.DefaultSegmentSize,
		PrepareRate:    128 << 20,
		Processors:     ProcessorsAuto,
		DrainDeadline:  limits.DrainDeadline,
		MaxConnections: limits.MaxConnections,
		AdminRate:      10_000,
		LogLevel:       slog.LevelInfo,
		LogFormat:      "text",
	}
}

// Flags adds a flag for each setting, and --config, to fs.
func Flags(fs *pflag.FlagSet) {
	d := Defaults()
	fs.String("config", "", "YAML `file` with settings; flags and WALSVC_* variables go before it")

	fs.String("data", d.Data, "volume `directory`; made as needed unless it is named")
	fs.Bool("create", d.Create, "make a volume in a named directory that is missing or empty")
	fs.String("socket", d.Socket, "Unix socket `path`, mode 0600; \"none\" for no socket (default walsvc.sock in --data)")
	fs.String("listen", d.Listen, "TCP `address` to serve on besides; beyond loopback only with TLS and certificates of clients")
	fs.String("tls-cert", d.TLSCert, "PEM `file` with the certificate for TCP")
	fs.String("tls-key", d.TLSKey, "PEM `file` with its key")
	fs.String("tls-client-ca", d.TLSClientCA, "PEM `file` with the authorities that clients' certificates must come from")
	fs.Bool("tls-any-client", d.TLSAnyClient, "beyond loopback, let in whoever reaches the address, without a certificate")
	fs.String("codec", d.Codec, "compression on disk: auto, none, s2 or zstd")
	fs.TextVar(new(Size), "segment-size", d.SegmentSize, "`size` of segment files of a new volume")
	fs.String("direct", d.Direct, "which writes bypass the page cache (O_DIRECT): auto, always or never")
	fs.TextVar(new(Size), "prepare-rate", d.PrepareRate, "`bytes` per second for preparing segments, or \"unlimited\"")
	fs.String("processors", d.Processors, "how many processors are used: auto, one while that carries more than all; or all")
	fs.Bool("keep-awake", d.KeepAwake, "keep processors from halting while there are appends: quicker, for power (root)")
	fs.String("admin", d.Admin, "TCP `address` for /metrics, /healthz, /readyz and, on loopback, /debug/pprof; off if empty")
	fs.Duration("drain-deadline", d.DrainDeadline, "longest orderly stop")
	fs.Int("max-connections", d.MaxConnections, "most connections at one time")
	fs.Int("admin-rate", d.AdminRate, "most administrative calls per second; 0 for no bound")
	fs.TextVar(new(slog.Level), "log-level", d.LogLevel, "least severe `level` that is logged: debug, info, warn or error")
	fs.String("log-format", d.LogFormat, "text or json")
}

// SocketPath returns where the Unix socket is to be; empty for none.
func (c Config) SocketPath() string {
	switch c.Socket {
	case "":
		return filepath.Join(c.Data, socketName)
	case NoSocket:
		return ""
	}
	return c.Socket
}
