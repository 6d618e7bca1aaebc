// SPDX-License-Identifier: Apache-2.0
// Strokes of a round brush on a canvas that lies over the picture.

const COLOUR = "#e6007e";

/** Strokes on a canvas, each {radius, points: [[x, y], …]} in pixels of the picture. */
export class Painting {
  constructor(canvas) {
    this.canvas = canvas;
    this.context = canvas.getContext("2d", { willReadFrequently: true });
    this.strokes = [];
    this.current = null;
  }

  resize(width, height) {
    Object.assign(this.canvas, { width, height });
    this.replace([]);
  }

  /** Show these strokes instead. */
  replace(strokes) {
    this.strokes = strokes;
    this.current = null;
    this.context.clearRect(0, 0, this.canvas.width, this.canvas.height);
    for (const { radius, points } of strokes) {
      points.forEach((point, i) => this.#line(points[Math.max(i - 1, 0)], point, radius));
    }
  }

  begin(point, radius) {
    if (this.current) return;
    this.current = { radius, points: [point] };
    this.#line(point, point, radius);
  }

  move(point) {
    if (!this.current) return;
    this.#line(this.current.points.at(-1), point, this.current.radius);
    this.current.points.push(point);
  }

  /** End the stroke that is being painted; returns whether there was one. */
  end() {
    if (!this.current) return false;
    this.strokes = [...this.strokes, this.current];
    this.current = null;
    return true;
  }

  cancel() {
    if (this.current) this.replace(this.strokes);
  }

  /** The painted pixels, Uint8Array [height * width] of 0 and 1. */
  mask() {
    const { width, height } = this.canvas;
    const { data } = this.context.getImageData(0, 0, width, height);
    const mask = new Uint8Array(width * height);
    for (let i = 0; i < mask.length; i++) mask[i] = data[4 * i + 3] >> 7; // half covered or more
    return mask;
  }

  #line([x0, y0], [x1, y1], radius) {
    const { context } = this;
    context.strokeStyle = context.fillStyle = COLOUR;
    context.lineWidth = 2 * radius;
    context.lineCap = "round";
    context.beginPath();
    if (x0 === x1 && y0 === y1) {
      context.arc(x1, y1, radius, 0, 2 * Math.PI); // a line without length is not drawn
      context.fill();
      return;
    }
    context.moveTo(x0, y0);
    context.lineTo(x1, y1);
    context.stroke();
  }
}
