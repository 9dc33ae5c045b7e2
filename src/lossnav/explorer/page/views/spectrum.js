// @ts-check
// The spectrum beside the surface: eigenvalues with their errors, and their density with its band.

/** @import { Spectrum } from "../state/messages.js" */

import { byId } from "../base/dom.js";
import { number, withError } from "../base/format.js";
import { ink } from "../base/theme.js";
import { drawPlot } from "../drawing/line_plot.js";

/** @param {Spectrum | null} spectrum */
export function showSpectrum(spectrum) {
  byId("spectrum-card").hidden = !spectrum;
  if (!spectrum) return;
  const colors = ink();
  const plot = byId("spectrum-plot");
  const { eigenvalues, value, density, density_error: error, floor } = spectrum;
  const most = Math.max(...density.filter(Number.isFinite), floor);
  const band = (/** @type {number} */ sign) => density.map((d, k) => Math.max(floor, d + sign * error[k]));
  byId("spectrum-title").textContent = `Spectrum of the ${spectrum.name} at the centre`;
  drawPlot(plot, plot.clientWidth, plot.clientHeight, value.length
    ? {
      x: { label: "eigenvalue", ends: spectrum.ends },
      y: { label: "density", log: floor > 0, ends: floor > 0 ? [floor, 2 * most] : null },
      series: [{ x: value, y: density, low: band(-1), high: band(1), color: colors.accent }],
      marks: eigenvalues.map((x) => ({ x, y: NaN, color: colors.pick })),
    }
    : {
      x: { label: "eigenvalue", ends: spectrum.ends },
      y: { label: "rank from its end", ends: [0, Math.max(...spectrum.ranks) + 1] },
      series: eigenvalues.map((x, k) => ({ x: [x], y: [spectrum.ranks[k]], color: colors.accent })),
    });
  const ends = [...new Set([0, eigenvalues.length - 1])].filter((k) => k in eigenvalues).map((k) => worded(eigenvalues[k], spectrum.errors[k]));
  const words = ends.length ? `Eigenvalues ${ends.join(" to ")}: each lies within its error with 95 %. ` : "";
  byId("spectrum-words").textContent = `${words}${value.length ? "Band: one standard error over the probes. " : ""}${spectrum.note}.`;
}

/** @param {number} value @param {number} error */
function worded(value, error) {
  const [figure, within] = withError(value, error);
  return within ? `${figure} ±\u2009${within}` : number(value);
}
