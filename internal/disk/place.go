package disk

import (
	"cmp"
	"errors"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

// ErrShared says that a file system is in use elsewhere: by a process that has
// a file of it open or stands in it, or mounted a second time.
var ErrShared = errors.New("file system is in use elsewhere")

// A Place is what the operating system says of where a directory lies. All of it
// is hearsay: what a file system and a device say of themselves, not what they do.
// What is not known is empty.
type Place struct {
	FileSystem string        `json:"file_system"` // as mount(8) calls it: ext4, xfs, nfs4
	Source     string        `json:"source"`      // what is mounted, usually a device's file
	MountPoint string        `json:"mount_point"`
	Root       string        `json:"root"`    // what of the file system is mounted there; "/" unless it is a part
	Options    []string      `json:"options"` // of the mount and of the file system, each once
	Devices    []BlockDevice `json:"devices"` // below, from the top to the bottom
	Kernel     string        `json:"kernel"`  // its release
	Boot       string        `json:"boot"`    // differs after each start of the machine
}

// A BlockDevice is one of those below a file system.
type BlockDevice struct {
	Name       string   `json:"name"`        // as in /sys/class/block
	Number     string   `json:"number"`      // major:minor
	Model      string   `json:"model"`       // what it says it is
	WriteCache string   `json:"write_cache"` // "write back" if it has one that a power cut empties, "write through" if it says not
	Rotational bool     `json:"rotational"`
	Counts     bool     `json:"-"`       // Counters tells of its flushes
	Backing    string   `json:"backing"` // the file behind a loop device
	On         []string `json:"on"`      // names of the devices it lies on
}

// Bottom returns the devices that lie on no other.
func (p *Place) Bottom() (bottom []BlockDevice) {
	for _, d := range p.Devices {
		if len(d.On) == 0 && d.Backing == "" {
			bottom = append(bottom, d)
		}
	}
	return bottom
}

// Has reports whether the file system is mounted with an option, as it is
// spelled in Options.
func (p *Place) Has(option string) bool { return slices.Contains(p.Options, option) }

// Counters are what a block device has done since the machine was started, for
// everybody.
type Counters struct {
	Written uint64 // bytes written
	Flushes uint64 // times it was told to empty its cache, and did
}

// parseStat reads the counters of a block device as /sys/block/*/stat spells
// them. Linux counts flushes from 5.5 on; ok is false for older ones.
func parseStat(text string) (c Counters, ok bool) {
	const sectors, flushes, sectorSize = 6, 15, 512
	fields := strings.Fields(text)
	if len(fields) <= flushes {
		return Counters{}, false
	}
	written, err := strconv.ParseUint(fields[sectors], 10, 64)
	if err != nil {
		return Counters{}, false
	}
	n, err := strconv.ParseUint(fields[flushes], 10, 64)
	return Counters{Written: written * sectorSize, Flushes: n}, err == nil
}

// A mount is a line of /proc/self/mountinfo.
type mount struct {
	number, root, point, kind, source string
	own, options                      string // of the mount, of the file system
}

// parseMounts reads /proc/self/mountinfo. Lines that are none are left out.
//
//	36 35 98:0 /mnt1 /mnt2 rw,noatime master:1 - ext3 /dev/root rw,errors=continue
func parseMounts(text string) (mounts []mount) {
	for line := range strings.Lines(text) {
		before, after, _ := strings.Cut(line, " - ")
		b, a := strings.Fields(before), strings.Fields(after)
		if len(b) < 6 || len(a) < 2 {
			continue
		}
		m := mount{number: b[2], root: unescape(b[3]), point: unescape(b[4]), own: b[5], kind: a[0], source: unescape(a[1])}
		if len(a) > 2 {
			m.options = a[2]
		}
		mounts = append(mounts, m)
	}
	return mounts
}

// unescape undoes what mountinfo does to spaces, tabs, newlines and backslashes.
func unescape(s string) string {
	if !strings.Contains(s, `\`) {
		return s
	}
	var b strings.Builder
	for len(s) > 0 {
		if len(s) >= 4 && s[0] == '\\' {
			if c, err := strconv.ParseUint(s[1:4], 8, 8); err == nil {
				b.WriteByte(byte(c))
				s = s[4:]
				continue
			}
		}
		b.WriteByte(s[0])
		s = s[1:]
	}
	return b.String()
}

// mountOf returns the mount that has a path, which is absolute and clean and has
// no symbolic links. Of several on one point the last is on top.
func mountOf(mounts []mount, path string) (best mount, ok bool) {
	for _, m := range mounts {
		if within(path, m.point) && (!ok || len(m.point) >= len(best.point)) {
			best, ok = m, true
		}
	}
	return best, ok
}

// within reports whether path is dir or lies in it.
func within(path, dir string) bool {
	rel, err := filepath.Rel(dir, path)
	return err == nil && rel != ".." && !strings.HasPrefix(rel, "../")
}

// allOptions returns the options of a mount and of its file system, each once.
func (m *mount) allOptions() []string {
	options := []string{}
	for option := range strings.SplitSeq(m.own+","+m.options, ",") {
		if option != "" && !slices.Contains(options, option) {
			options = append(options, option)
		}
	}
	return options
}

// sysfs is where Linux tells of its devices, apart so that a test can be the kernel.
type sysfs struct {
	root string // "/sys"
	read func(path string) string
	list func(dir string) []string
	real func(path string) string
}

// devices returns a block device and all below it, each once.
func (s *sysfs) devices(number string) (all []BlockDevice) {
	dir := s.real(filepath.Join(s.root, "dev/block", number))
	if dir == "" {
		return nil
	}
	return s.below(nil, dir)
}

func (s *sysfs) below(all []BlockDevice, dir string) []BlockDevice {
	name := filepath.Base(dir)
	if slices.ContainsFunc(all, func(d BlockDevice) bool { return d.Name == name }) {
		return all
	}
	d := BlockDevice{Name: name, Number: s.read(filepath.Join(dir, "dev"))}
	if s.read(filepath.Join(dir, "partition")) != "" {
		// A partition has the cache of its disk.
		disk := filepath.Dir(dir)
		d.On = []string{filepath.Base(disk)}
		return s.below(append(all, d), disk)
	}
	d.WriteCache = s.read(filepath.Join(dir, "queue/write_cache"))
	d.Rotational = s.read(filepath.Join(dir, "queue/rotational")) == "1"
	d.Model = cmp.Or(s.read(filepath.Join(dir, "device/model")), s.read(filepath.Join(dir, "dm/name")), s.read(filepath.Join(dir, "md/level")))
	d.Backing = s.read(filepath.Join(dir, "loop/backing_file"))
	_, counts := parseStat(s.read(filepath.Join(dir, "stat")))
	d.On = append([]string{}, s.list(filepath.Join(dir, "slaves"))...)
	// Only a device with queues of its own (mq) counts the flushes among its
	// requests. Those that pass requests on do not, NVMe's multipath among them.
	d.Counts = counts && len(d.On) == 0 && len(s.list(filepath.Join(dir, "mq"))) > 0 && s.read(filepath.Join(dir, "queue/iostats")) == "1"
	all = append(all, d)
	for _, slave := range d.On {
		if at := s.real(filepath.Join(dir, "slaves", slave)); at != "" {
			all = s.below(all, at)
		}
	}
	return all
}

// MountedAt reports whether dir, which is absolute and has no symbolic links, is
// where the whole file system is mounted.
func (p *Place) MountedAt(dir string) bool {
	return p.MountPoint == filepath.Clean(dir) && p.Root == "/"
}
