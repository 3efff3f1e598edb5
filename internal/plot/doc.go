// Package plot draws line charts as SVG: a few series over one axis, with
// either axis logarithmic. The pictures in docs/ are made with it, so they need
// neither a service nor a script of somebody's to be made again.
//
// A chart is a value, and the same value gives the same bytes: a picture in
// the repository changes when its figures do, and not otherwise.
package plot
