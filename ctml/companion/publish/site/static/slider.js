// Puts the browser's own slider under a filmstrip and shows one of its drawings; for print the filmstrip comes back.
document.querySelectorAll(".slider").forEach((slider) => {
  const picture = slider.querySelector("img");
  const control = slider.querySelector("input");
  const strip = { src: picture.src, alt: picture.alt };
  const frames = JSON.parse(control.dataset.frames);
  const values = JSON.parse(control.dataset.values);
  const name = control.parentElement.firstChild.textContent.trim();

  const show = () => {
    const said = `${name} = ${values[control.value]}`;
    picture.src = frames[control.value];
    picture.alt = `${said}. ${strip.alt}`;
    control.ariaValueText = said;
    slider.querySelector("output").textContent = values[control.value];
  };

  control.value = Math.floor(frames.length / 2);
  control.parentElement.hidden = false;
  control.addEventListener("input", show);
  addEventListener("beforeprint", () => Object.assign(picture, strip));
  addEventListener("afterprint", show);
  show();
});
